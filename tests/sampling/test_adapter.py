"""Samplers on masked language models of transformers, small and random."""

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    EsmConfig,
    EsmForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from llada.sampling.adapter import adapted
from llada.sampling.denoise import denoise
from llada.sampling.generate import SamplerConfig, generate, generation_states, infill
from llada.sampling.predictors import plain, suppressed

PAD, CLS, SEP, MASK, VOCAB = 1, 2, 3, 4, 40
SIZE = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "pad_token_id": PAD}  # fmt: skip
BUILD = {
    "bert": (lambda: BertForMaskedLM(BertConfig(**SIZE, max_position_embeddings=24)), 24),
    "roberta": (lambda: RobertaForMaskedLM(RobertaConfig(**SIZE, max_position_embeddings=26)), 24),
    "esm": (
        lambda: EsmForMaskedLM(
            EsmConfig(**SIZE, max_position_embeddings=26, mask_token_id=MASK, token_dropout=True,
                      position_embedding_type="absolute", emb_layer_norm_before=False)
        ),
        24,
    ),
    "esm, rotary": (
        lambda: EsmForMaskedLM(
            EsmConfig(**SIZE, max_position_embeddings=24, mask_token_id=MASK, token_dropout=True,
                      position_embedding_type="rotary", emb_layer_norm_before=False)
        ),
        24,
    ),
    "modernbert": (
        lambda: ModernBertForMaskedLM(
            ModernBertConfig(**SIZE, max_position_embeddings=24, cls_token_id=CLS, sep_token_id=SEP,
                             bos_token_id=CLS, eos_token_id=SEP)
        ),
        24,
    ),
}  # fmt: skip
SPECIAL = [PAD, CLS, SEP]


@pytest.fixture(scope="module", params=BUILD)
def model(request):
    torch.manual_seed(0)
    build, longest = BUILD[request.param]
    network = build().eval().double()
    for p in network.parameters():
        p.data.mul_(4)  # predictions that differ from place to place
    return adapted(network, MASK, SEP), longest


def canvas(rows: int = 3, length: int = 12) -> Tensor:
    tokens = torch.randint(5, VOCAB, (rows, length), generator=torch.Generator().manual_seed(rows))
    tokens[:, 0], tokens[:, -1] = CLS, SEP
    for row in range(rows):
        tokens[row, 2 + row : -3] = MASK
    return tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_infilling_fills_the_masks_and_keeps_the_special_tokens(model, temperature):
    sampler = SamplerConfig(temperature=temperature, suppress_tokens=SPECIAL)
    out = infill(model[0], canvas(), sampler=sampler).sequences
    given = canvas() != MASK
    assert torch.equal(out[given], canvas()[given])
    assert not torch.isin(out[~given], torch.tensor([*SPECIAL, MASK])).any()


@pytest.mark.parametrize("name", ["threshold", "entropy_bound", "mask_predict", "p2", "gibbs", "remdm_conf"])
def test_any_sampler_generates(model, name):
    fields = {"block_length": 4} if name == "threshold" else {"steps": 16} if name in ("gibbs", "remdm_conf") else {}
    sampler = SamplerConfig.named(name, gen_length=8, suppress_tokens=SPECIAL, **fields)
    prompt = canvas()[:, :2]
    out = generate(model[0], prompt, None, sampler)
    assert torch.equal(out.sequences[:, :2], prompt)
    assert not torch.isin(out.sequences[:, 2:], torch.tensor([*SPECIAL, MASK])).any()


def test_step_in_which_nothing_is_masked_gives_the_network_no_empty_batch(model):
    """Few networks take one; a rule that masks again goes on when a single row is full."""
    sampler = SamplerConfig(reveal="remdm", remask="rescale", eta=1.0, gen_length=4, steps=24, temperature=1.0,
                            suppress_tokens=SPECIAL)  # fmt: skip
    states = list(generation_states(model[0], canvas()[:1, :2], None, sampler))
    assert len(states) == 24
    assert any(not (state.canvas == MASK).any() for state in states[:-1])
    assert not (states[-1].canvas == MASK).any()


def test_loop_beneath_works_with_the_plain_predictor(model):
    *_, last = denoise(suppressed(plain(model[0]), SPECIAL), canvas(), MASK)
    assert torch.equal(
        last.canvas, infill(model[0], canvas(), sampler=SamplerConfig(suppress_tokens=SPECIAL)).sequences
    )


def test_logits_are_those_of_the_model(model):
    tokens = canvas()
    expected = model[0].model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    assert torch.allclose(model[0](tokens).logits, expected, atol=1e-12)


def test_row_does_not_depend_on_padding(model):
    sampler = SamplerConfig(temperature=0.9, suppress_tokens=SPECIAL)
    padded = torch.cat((torch.full((3, 4), PAD), canvas()), dim=1)
    attention_mask = torch.cat((torch.zeros(3, 4), torch.ones(3, 12)), dim=1).long()
    beside = infill(model[0], padded, attention_mask, sampler, seed=3).sequences
    assert torch.equal(beside[:, 4:], infill(model[0], canvas(), None, sampler, seed=3).sequences)


def test_padding_token_that_was_written_moves_no_position(model):
    """RoBERTa and ESM leave padding tokens out when they count; in the middle of a text they are text."""
    tokens = canvas()
    tokens[:, 1] = PAD
    ones = torch.ones_like(tokens)
    position = torch.arange(12).expand(3, -1)
    first = getattr(model[0].model.config, "max_position_embeddings", 24) > 24
    expected = model[0].model(input_ids=tokens, attention_mask=ones, position_ids=position + 2 * first).logits
    assert torch.allclose(model[0](tokens).logits, expected, atol=1e-12)


def test_all_usable_positions_are_used_and_no_more(model):
    predictor, longest = model
    assert predictor.config.max_position_embeddings == longest
    sampler = SamplerConfig(gen_length=4)
    assert generate(predictor, canvas(1, longest - 4) // 5 + 5, None, sampler).sequences.shape == (1, longest)
    with pytest.raises(ValueError, match=f"{longest + 1} tokens of prompt and answer exceed the model's {longest}"):
        generate(predictor, canvas(1, longest - 3) // 5 + 5, None, sampler)
    with pytest.raises(ValueError, match=f"{longest + 1} tokens exceed the model's {longest} positions; shorten them"):
        plain(predictor)(canvas(1, longest + 1), slice(0, 1))


def test_end_of_sequence_can_be_used_where_it_is_given(model):
    sampler = SamplerConfig(gen_length=8, stop_at_eos=True, block_length=1, temperature=1.0)
    out = generate(model[0], canvas()[:, :2], None, sampler).sequences[:, 2:]
    for row in out.tolist():
        assert SEP not in row or set(row[row.index(SEP) :]) == {SEP}
    with pytest.raises(ValueError, match=r"stop_at_eos needs model\.config\.eos_token_id"):
        generate(adapted(model[0].model, MASK), canvas()[:, :2], None, sampler)


def test_mask_token_comes_from_the_argument_or_the_model():
    assert adapted(BUILD["esm"][0]()).config.mask_token_id == MASK
    assert adapted(BUILD["esm"][0](), 7).config.mask_token_id == 7
    with pytest.raises(ValueError, match=r"config has no mask_token_id; give mask_token_id=tokenizer\.mask_token_id"):
        infill(adapted(BUILD["bert"][0]()), canvas())
