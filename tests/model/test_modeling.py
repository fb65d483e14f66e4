import importlib.util

import pytest
import torch
from torch.nn import functional as F

from llada import LLaDAModel, load_pretrained
from llada.model.modeling import MLP, rotary_tables, rotate

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


def tokens(rows: int, length: int, *, vocabulary: int = 40, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# What the model computes


@IMPLEMENTATIONS
def test_logits_are_those_of_the_original_implementation(golden, implementation):
    model, _ = load_pretrained(golden.folder, attn_implementation=implementation)
    logits = model(golden.tensors["logits.input_ids"]).logits
    assert_near(logits, golden.tensors["logits.plain"], 1e-5)


@IMPLEMENTATIONS
def test_logits_with_padding_are_those_of_the_original_implementation(golden, implementation):
    model, _ = load_pretrained(golden.folder, attn_implementation=implementation)
    attention_mask = golden.tensors["logits.attention_mask"]
    logits = model(golden.tensors["logits.input_ids"], attention_mask).logits
    unpadded = attention_mask.bool()
    assert_near(logits[unpadded], golden.tensors["logits.masked"][unpadded], 1e-5)


@IMPLEMENTATIONS
@pytest.mark.parametrize("changed", [0, 4, 9])
def test_every_position_sees_every_other(build, implementation, changed):
    model = build(attn_implementation=implementation)
    ids = tokens(1, 10)
    other = ids.clone()
    other[0, changed] = (ids[0, changed] + 1) % 40
    difference = (model(ids).logits - model(other).logits).abs().amax(-1)
    assert (difference > 1e-6).all()


@IMPLEMENTATIONS
def test_a_padded_position_is_seen_by_no_other(build, implementation):
    model = build(attn_implementation=implementation)
    ids, visible = tokens(1, 10), torch.ones(1, 10, dtype=torch.int64)
    visible[0, 4] = 0
    other = ids.clone()
    other[0, 4] = (ids[0, 4] + 1) % 40
    kept = visible[0].bool()
    assert torch.equal(model(ids, visible).logits[0, kept], model(other, visible).logits[0, kept])


@IMPLEMENTATIONS
@pytest.mark.parametrize("padding", [1, 7, 30])
@pytest.mark.parametrize("seed", [2, 3])
def test_left_padding_changes_nothing_whatever_tokens_it_holds(build, implementation, padding, seed):
    model = build(attn_implementation=implementation).double()
    ids = tokens(2, 9)
    garbage = tokens(2, padding, seed=seed)
    visible = torch.cat((torch.zeros_like(garbage), torch.ones_like(ids)), dim=1)
    padded = model(torch.cat((garbage, ids), dim=1), visible).logits[:, padding:]
    assert_near(padded, model(ids).logits, 1e-12)


@IMPLEMENTATIONS
def test_rows_with_different_padding_are_independent_of_their_neighbours(build, implementation):
    model = build(attn_implementation=implementation).double()
    ids = tokens(3, 12)
    visible = torch.ones_like(ids)
    visible[1, :5], visible[2, :11] = 0, 0
    together = model(ids, visible).logits
    for row in range(3):
        alone = model(ids[row : row + 1], visible[row : row + 1]).logits[0]
        kept = visible[row].bool()
        assert_near(together[row, kept], alone[kept], 1e-12)


@IMPLEMENTATIONS
def test_a_row_that_is_all_padding_gives_finite_logits(build, implementation):
    ids = tokens(2, 6)
    visible = torch.ones_like(ids)
    visible[1] = 0
    assert build(attn_implementation=implementation)(ids, visible).logits.isfinite().all()


@pytest.mark.parametrize("shift", [1, 37, 1000])
def test_only_differences_of_positions_matter(build, shift):
    model = build().double()
    ids, positions = tokens(2, 10), torch.arange(10)[None]
    plain = model(ids).logits
    assert_near(model(ids, position_ids=positions).logits, plain, 0)
    assert_near(model(ids, position_ids=positions + shift).logits, plain, 1e-11)
    assert (model(ids, position_ids=2 * positions).logits - plain).abs().max() > 1e-6


def test_rotation_keeps_lengths_and_turns_scores_into_functions_of_the_distance():
    states = torch.randn(2, 1, 1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at = [rotary_tables(torch.arange(6)[None] + shift, 8, 100.0, dtype=torch.float64) for shift in (0, 5)]
    query, key = ([rotate(s, *tables) for tables in at] for s in states)
    assert_near(query[0].norm(dim=-1), states[0].norm(dim=-1), 1e-12)
    assert_near(query[0] @ key[0].mT, query[1] @ key[1].mT, 1e-12)


@IMPLEMENTATIONS
def test_the_forward_pass_has_no_randomness_even_in_training_mode(build, implementation):
    model = build(attn_implementation=implementation).train()
    ids = tokens(2, 8)
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert torch.equal(model(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eager_and_sdpa_attention_agree(build, dtype):
    ids, visible = tokens(2, 10), torch.ones(2, 10, dtype=torch.int64)
    visible[0, :4] = 0
    model = build().to(dtype)
    for mask in (None, visible):
        model.set_attn_implementation("sdpa")
        sdpa = model(ids, mask).logits[visible.bool()]
        model.set_attn_implementation("eager")
        assert_near(model(ids, mask).logits[visible.bool()], sdpa, 1e-5 if dtype == torch.float32 else 1e-12)


def test_flash_attention_raises_where_it_is_not_installed(build):
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash_attn is installed here")
    with pytest.raises(ImportError, match=r"FlashAttention2.*doesn't seem to be installed"):
        build(attn_implementation="flash_attention_2")


def test_a_mask_with_four_dimensions_reaches_the_attention_as_it_is(build):
    model, ids = build().double(), tokens(1, 8)
    documents = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    packed = model(ids, (documents[:, None] == documents[None])[None, None]).logits
    assert_near(packed[:, :3], model(ids[:, :3]).logits, 1e-12)
    assert_near(packed[:, 3:], model(ids[:, 3:]).logits, 1e-12)


# Parameters


@IMPLEMENTATIONS
def test_grouped_keys_and_values_equal_repeated_ones(build, implementation):
    grouped = build(attn_implementation=implementation).double()
    full = build(attn_implementation=implementation, n_kv_heads=4).double()
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if ".k_proj." in name or ".v_proj." in name:
            weights[name] = weight.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    ids = tokens(2, 10)
    assert_near(grouped(ids).logits, full(ids).logits, 1e-12)


def test_multi_query_attention_means_one_key_value_head(build):
    model = build(n_kv_heads=None, multi_query_attention=True)
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (8, 32)


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj"])
def test_the_bias_of_queries_keys_and_values_is_used(build, name):
    model, ids = build(include_qkv_bias=True).double(), tokens(2, 10)
    before = model(ids).logits
    bias = model.get_submodule(f"model.layers.0.self_attn.{name}").bias
    assert torch.equal(bias, torch.zeros_like(bias))
    bias.data.normal_(generator=torch.Generator().manual_seed(0))
    # a bias of the keys counts, too: after the rotation it is not the same for all positions
    assert (model(ids).logits - before).abs().max() > 1e-6


def test_a_model_without_bias_has_none_anywhere(build):
    assert not any(name.endswith("bias") for name, _ in build().named_parameters())


def test_padding_rows_of_the_embedding_are_never_predicted_and_get_no_gradient(build):
    model, ids = build(embedding_size=64), tokens(2, 10)
    assert model.lm_head.weight.shape == (64, 32)
    logits = model(ids).logits
    assert logits.shape == (2, 10, 40)
    F.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    for weight in (model.lm_head.weight, model.model.embed_tokens.weight):
        assert weight.grad[40:].eq(0).all()
        assert weight.grad[:40].ne(0).any()


def test_tied_embeddings_are_one_parameter(build):
    tied, untied = build(weight_tying=True), build()
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    assert untied.num_parameters() - tied.num_parameters() == 40 * 32


@pytest.mark.parametrize("changes", [{}, {"init_fn": "normal", "init_std": 0.05, "init_cutoff_factor": 3.0}])
def test_initial_weights_have_the_configured_spread_cut_at_three_deviations(build, changes):
    size, hidden = 96, 384
    model = build(d_model=size, mlp_hidden_size=hidden, n_layers=3, vocab_size=500, **changes)
    expected = {"model.embed_tokens.weight": size**-0.5, "lm_head.weight": size**-0.5}
    for i in range(3):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
            expected[f"model.layers.{i}.{name}.weight"] = size**-0.5
        for name, fan_in in (("self_attn.o_proj", size), ("mlp.down_proj", hidden)):
            expected[f"model.layers.{i}.{name}.weight"] = (fan_in * 2 * (i + 1)) ** -0.5
    weights = dict(model.named_parameters())
    matrices = {name: weight for name, weight in weights.items() if weight.ndim == 2}
    assert matrices.keys() == expected.keys()
    for name, weight in matrices.items():
        std = changes.get("init_std", expected[name])
        # a normal distribution cut at 3 deviations keeps 0.9866 of its deviation; the smallest matrix has 4608 numbers,
        # so that 5 % is 5 standard errors: a false alarm in 23 matrices has a probability below 2e-5
        assert weight.std().item() == pytest.approx(0.9866 * std, rel=0.05), name
        assert weight.abs().max() <= 3 * std * (1 + 1e-6), name
        assert weight.abs().max() > 2.5 * std, name
    assert all(weight.eq(1).all() for name, weight in weights.items() if weight.ndim == 1)


def test_the_normal_initialisation_is_not_cut(build):
    model = build(init_fn="normal", init_std=0.05, vocab_size=2000)
    # 64000 numbers: all of them lie within 3 deviations with probability e^-172
    assert model.lm_head.weight.abs().max() > 3 * 0.05


# What a caller may ask for


@pytest.mark.parametrize("at", [[0], [3, 17, 4], list(range(20)), []])
def test_logits_at_positions_are_those_of_the_full_forward_pass(build, at):
    model, ids = build().double(), tokens(2, 10)
    at = torch.tensor(at, dtype=torch.int64)
    assert_near(model(ids, logits_at=at).logits, model(ids).logits.flatten(0, 1)[at], 1e-12)


def test_logits_at_positions_give_the_same_gradients(build):
    ids, at = tokens(2, 10), torch.tensor([2, 3, 13])
    gradients = []
    for gather_early in (False, True):
        model = build().double()
        logits = model(ids, logits_at=at).logits if gather_early else model(ids).logits.flatten(0, 1)[at]
        F.cross_entropy(logits, ids.flatten()[at]).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for early, late in zip(*gradients, strict=True):
        assert_near(early, late, 1e-12)


def test_input_embeddings_equal_their_tokens(build):
    model, ids = build(), tokens(2, 10)
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embeddings).logits, model(ids).logits)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
@pytest.mark.parametrize("masked", [False, True])
@IMPLEMENTATIONS
def test_an_empty_batch_gives_empty_logits(build, implementation, shape, masked):
    mask = torch.ones(shape, dtype=torch.int64) if masked else None
    logits = build(attn_implementation=implementation)(torch.zeros(shape, dtype=torch.int64), mask).logits
    assert logits.shape == (*shape, 40)
    logits.sum().backward()


@pytest.mark.parametrize("both", [False, True])
def test_tokens_and_embeddings_exclude_each_other(build, both):
    given = {"input_ids": tokens(1, 4), "inputs_embeds": torch.zeros(1, 4, 32)} if both else {}
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        build()(**given)


def test_a_sequence_that_is_too_long_raises(build):
    model = build()
    assert model(tokens(1, 64)).logits.shape == (1, 64, 40)
    with pytest.raises(ValueError, match="65 tokens does not fit into max_sequence_length=64"):
        model(tokens(1, 65))


@pytest.mark.parametrize("shape", [(2, 9), (2, 11), (1, 10), (10,), (2, 10, 10)])
def test_a_mask_of_another_shape_than_the_tokens_raises(build, shape):
    with pytest.raises(ValueError, match=r"attention_mask has shape .* but the tokens have \(2, 10\)"):
        build()(tokens(2, 10), torch.ones(shape))


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
def test_the_padding_mask_may_have_any_dtype(build, mask_dtype):
    model, ids, visible = build(), tokens(2, 10), torch.ones(2, 10, dtype=torch.int64)
    visible[1, :3] = 0
    assert torch.equal(model(ids, visible.to(mask_dtype)).logits, model(ids, visible).logits)


def test_options_without_an_effect_raise(build):
    model, ids = build(), tokens(1, 4)
    with pytest.raises(TypeError, match=r"no argument 'labels'; the loss is llada\.elbo_loss"):
        model(ids, labels=ids)
    for option in ({"atention_mask": ids}, {"is_causal": True}, {"use_cache": True}):
        with pytest.raises(TypeError, match=f"no argument '{next(iter(option))}'"):
            model(ids, **option)
    assert torch.equal(model(ids, use_cache=False, past_key_values=None).logits, model(ids).logits)


@pytest.mark.parametrize("return_dict", [True, False])
def test_hidden_states_and_attention_weights_are_returned_on_request(build, return_dict):
    model, ids = build(attn_implementation="eager"), tokens(2, 10)
    outputs = model(ids, output_hidden_states=True, output_attentions=True, return_dict=return_dict)
    logits, hidden_states, attentions = outputs.to_tuple() if return_dict else outputs
    assert [tuple(states.shape) for states in hidden_states] == [(2, 10, 32)] * 3
    assert [tuple(weights.shape) for weights in attentions] == [(2, 4, 10, 10)] * 2
    assert torch.equal(hidden_states[0], model.get_input_embeddings()(ids))
    assert torch.equal(model.lm_head(hidden_states[-1]), logits)
    for weights in attentions:
        assert_near(weights.sum(-1), torch.ones(2, 4, 10), 1e-6)
    plain = model(ids)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert torch.equal(plain.logits, logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@IMPLEMENTATIONS
def test_half_precision_runs_and_stays_near_full_precision(build, implementation, dtype):
    model, ids = build(attn_implementation=implementation), tokens(2, 10)
    visible = torch.ones_like(ids)
    visible[0, :3] = 0
    full = model(ids, visible).logits
    half = model.to(dtype)(ids, visible).logits
    assert half.dtype == dtype
    kept = visible.bool()
    assert_near(half[kept].float(), full[kept], 0.1)


def test_float64_is_float64_all_through(build):
    """A perturbation far below the resolution of float32 comes out in proportion, so nothing on the way rounded it."""
    model = build().double()
    embeddings = model.get_input_embeddings()(tokens(1, 10)).detach()
    direction = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        plain = model(inputs_embeds=embeddings).logits
        slopes = [(model(inputs_embeds=embeddings + e * direction).logits - plain) / e for e in (1e-9, 2e-9)]
        assert_near(slopes[0], slopes[1], 1e-5)
        assert slopes[0].abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")  # the name until transformers 6
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_recomputes_blocks_and_changes_no_gradient(build, monkeypatch, reentrant):
    ids, calls = tokens(2, 10), []
    forward = MLP.forward  # once a block; Block.forward itself is what transformers wraps
    monkeypatch.setattr(MLP, "forward", lambda self, states: calls.append(1) or forward(self, states))
    results = []
    for checkpointing in (False, True):
        model = build().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        calls.clear()
        loss = F.cross_entropy(model(ids).logits.flatten(0, 1), ids.flatten())
        assert len(calls) == 2
        loss.backward()
        assert len(calls) == (4 if checkpointing else 2)
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("padded", [False, True])
def test_the_body_compiles_into_one_graph(build, padded):
    model, ids = build().model, tokens(2, 10)
    visible = torch.ones_like(ids)
    visible[0, :3] = 0
    mask = visible if padded else None
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(ids, mask).last_hidden_state, model(ids, mask).last_hidden_state)


def test_the_body_alone_gives_the_hidden_states_under_the_head(build):
    model, ids = build(), tokens(2, 10)
    assert isinstance(model.model, LLaDAModel)
    assert torch.equal(model.lm_head(model.model(ids).last_hidden_state), model(ids).logits)
    assert model.base_model is model.model


def test_mask_of_four_dimensions_needs_an_attention_function_that_takes_it(build, monkeypatch):
    model = build(attn_implementation="sdpa")
    visible = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    model(torch.arange(4)[None], visible)
    monkeypatch.setattr(type(model.config), "_attn_implementation", "flash_attention_2")
    with pytest.raises(ValueError, match=r"flash_attention_2 takes no mask of four dimensions.*attn_implementation"):
        model(torch.arange(4)[None], visible)
