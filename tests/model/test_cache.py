"""Keys and values that a forward pass stores, rewrites at some positions, and attends to."""

import pytest
import torch
from torch import Tensor

import llada

L, V = 12, 40


def build(layers: int = 1, implementation: str = "sdpa", **fields) -> llada.LLaDAForMaskedLM:
    torch.manual_seed(0)
    config = llada.LLaDAConfig(
        d_model=32,
        n_layers=layers,
        n_heads=4,
        n_kv_heads=2,
        mlp_hidden_size=48,
        vocab_size=V,
        mask_token_id=3,
        max_sequence_length=16,
        attn_implementation=implementation,
        **fields,
    )
    return llada.LLaDAForMaskedLM(config).double().eval()


def tokens(rows: int = 3) -> tuple[Tensor, Tensor]:
    ids = torch.randint(4, V, (rows, L), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.ones_like(ids)
    attention_mask[1, :2] = 0
    return ids, attention_mask


COLUMNS = torch.tensor([[4, 5, 9], [9, 5, 4], [6, 6, 2]])  # in any order, and one of them twice


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("block_length", [None, 5])
@torch.no_grad()
def test_some_positions_attend_to_what_is_stored_of_the_others(implementation, block_length):
    """With one layer keys and values are functions of their own token, so this is exact for changed tokens, too."""
    model = build(implementation=implementation, block_length=block_length)
    ids, attention_mask = tokens()
    stored = model.key_values(*ids.shape)
    model(ids, attention_mask, cache=stored.span())
    changed = ids.scatter(1, COLUMNS, (ids + 7).clamp(max=V - 1).gather(1, COLUMNS))
    full = model(changed, attention_mask).logits
    given = changed.gather(1, COLUMNS)
    part = model(given, attention_mask, cache=stored.span(columns=COLUMNS)).logits
    expected = full.gather(1, COLUMNS[..., None].expand_as(part))
    torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)
    again = model(changed[:, :1], attention_mask, cache=stored.span(columns=torch.zeros(3, 1, dtype=torch.long))).logits
    torch.testing.assert_close(again[[0, 2]], full[[0, 2], :1], rtol=0, atol=1e-12)  # column 0 of row 1 is padding


@torch.no_grad()
def test_some_rows_are_computed_and_the_others_keep_what_is_stored():
    model = build(2)
    ids, attention_mask = tokens()
    stored = model.key_values(*ids.shape)
    full = model(ids, attention_mask, cache=stored.span()).logits
    rows, columns = torch.tensor([2, 0]), torch.tensor([[1, 2], [3, 4]])
    before = [key.clone() for key, _ in stored.layers.values()]
    part = model(ids[rows[:, None], columns], attention_mask[rows], cache=stored.span(rows, columns)).logits
    torch.testing.assert_close(part, full[rows[:, None], columns], rtol=0, atol=1e-12)
    for old, (new, _) in zip(before, stored.layers.values(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-12)
        assert torch.equal(new[1], old[1])


@torch.no_grad()
def test_a_whole_pass_is_that_without_a_cache():
    model = build(2)
    ids, attention_mask = tokens()
    cached = model(ids, attention_mask, cache=model.key_values(*ids.shape).span()).logits
    assert torch.equal(cached, model(ids, attention_mask).logits)


def test_spans_that_do_not_fit_are_refused():
    model = build()
    ids, attention_mask = tokens()
    stored = model.key_values(3, L)
    with pytest.raises(ValueError, match=r"columns \(2, 1\) must be \(3, positions\)"):
        stored.span(columns=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"the cache's span is \(3, 12\), but the tokens have \(3, 4\)"):
        model(ids[:, :4], attention_mask, cache=stored.span())
    with pytest.raises(ValueError, match=r"attention_mask has shape \(3, 4\), but the tokens have \(3, 12\)"):
        model(ids[:, :4], attention_mask[:, :4], cache=stored.span(columns=torch.zeros(3, 4, dtype=torch.long)))
    with pytest.raises(ValueError, match="a sequence of 17 tokens does not fit into max_sequence_length=16"):
        model(ids, cache=model.key_values(3, 17).span(columns=torch.zeros(3, L, dtype=torch.long)))
