"""Every published sampler by its name: it loads, says where it comes from, generates, and treats each row alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from llada.config import ConfigError, config_folder, read_yaml
from llada.sampling.generate import SamplerConfig, generate

FIXED = {
    *("random", "low_confidence", "semi_autoregressive", "max_probability", "margin", "entropy", "left_to_right"),
    *("ancestral", "first_hitting", "mask_predict", "threshold", "factor", "entropy_bound", "klass"),
    *("remdm", "p2", "gibbs"),
    *("prefix_cache", "dual_cache", "fast_dllm", "delayed_cache", "block_causal_cache"),
}
FILES = sorted((config_folder() / "sampling").glob("*.yaml"))
NAMES = [file.stem for file in FILES]
CACHED = [file.stem for file in FILES if "cache" in read_yaml(file)]
LENGTH = 16


def sampler(name: str, background: str, **values: Any) -> SamplerConfig:
    """The named sampler for short answers: blocks of 8 where it has blocks, and few steps where it has many."""
    needed = {"background": background} if name == "position_calibrated" else {}
    given = SamplerConfig.named(name, **needed)
    short: dict[str, Any] = {"gen_length": LENGTH, **values}
    if given.block_length is not None:
        short["block_length"] = LENGTH // 2
    if given.steps is not None:
        short["steps"] = min(given.steps, 3 * LENGTH // 2)
    if given.longest is not None:
        short["longest"] = 3 * LENGTH // 2
    return given.replace(**short)


def prompts(rows: int, length: int = 6) -> Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(rows))


def test_every_fixed_name_has_a_file():
    assert set(NAMES) >= FIXED


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_first_line_names_the_paper(file):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert "arXiv:" in first


@pytest.mark.parametrize("name", NAMES)
def test_named_sampler_loads_with_the_default_length(name, background):
    needed = {"background": background} if name == "position_calibrated" else {}
    loaded = SamplerConfig.named(name, **needed)
    loaded.check_lengths()
    assert loaded.make_order()
    assert loaded.make_reveal()
    assert loaded.make_counts()


def test_sampler_that_needs_a_file_says_so(tmp_path):
    with pytest.raises(ConfigError, match="order: position_calibrated needs background"):
        SamplerConfig.named("position_calibrated")
    for text in ("{", '{"a": 1}', '"words"'):
        (tmp_path / "counts.json").write_text(text)
        with pytest.raises(ValueError, match=r"background='.*counts\.json' must be a JSON list of one count per token"):
            SamplerConfig.named("position_calibrated", background=str(tmp_path / "counts.json")).make_order()
    with pytest.raises(ValueError, match="must be a JSON list"):
        SamplerConfig.named("position_calibrated", background=str(tmp_path / "none.json")).make_order()


@pytest.mark.parametrize("name", NAMES)
def test_named_sampler_leaves_no_mask_and_repeats_itself(model, background, name):
    chosen = sampler(name, background)
    out, again = (generate(model, prompts(3), None, chosen, seed=4) for _ in range(2))
    assert torch.equal(out.sequences[:, :6], prompts(3))
    assert not (out.sequences == model.config.mask_token_id).any()
    assert torch.equal(out.sequences, again.sequences)
    assert torch.equal(out.forward_passes, again.forward_passes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [None, pytest.param(0.8, marks=pytest.mark.slow)])
def test_row_depends_on_neither_neighbours_nor_padding(model, background, name, temperature):
    chosen = sampler(name, background, **({} if temperature is None else {"temperature": temperature}))
    together = generate(model, prompts(3), None, chosen, seed=5)
    for i in range(3):
        alone = generate(model, prompts(3)[i : i + 1], None, chosen, seed=5, first_row=i)
        assert torch.equal(alone.sequences[0], together.sequences[i])
        assert alone.forward_passes[0] == together.forward_passes[i]
    padded = torch.cat((torch.full((3, 5), 17), prompts(3)), dim=1)
    attention_mask = torch.cat((torch.zeros(3, 5), torch.ones(3, 6)), dim=1).long()
    beside = generate(model, padded, attention_mask, chosen, seed=5)
    assert torch.equal(beside.sequences[:, 5:], together.sequences)
    assert torch.equal(beside.forward_passes, together.forward_passes)


@pytest.mark.parametrize("name", NAMES)
def test_seed_matters_exactly_where_something_is_drawn(model, background, name):
    chosen = sampler(name, background)
    first, second = (generate(model, prompts(2), None, chosen, seed=seed).sequences for seed in (0, 1))
    drawn = chosen.temperature > 0 or chosen.order == "random" or chosen.reveal in ("ancestral", "remdm")
    assert torch.equal(first, second) != drawn


def test_adaptive_samplers_save_predictions_and_rows_end_alone(bidirectional, background):
    out = generate(bidirectional, prompts(3), None, sampler("threshold", background, threshold=0.12))
    assert (out.forward_passes < LENGTH).all()
    assert len(set(out.forward_passes.tolist())) > 1


def test_guidance_costs_two_evaluations_a_step(bidirectional, background):
    out = generate(bidirectional, prompts(2), None, sampler("adaptive_guidance", background))
    assert out.forward_passes.tolist() == [2 * LENGTH] * 2


@pytest.mark.parametrize("name", CACHED)
def test_cache_computes_fewer_positions_in_as_many_calls(model, background, name):
    chosen = sampler(name, background)
    out = generate(model, prompts(3), None, chosen)
    without = generate(model, prompts(3), None, chosen.replace(cache="none", refresh_every=None))
    assert (out.query_tokens < without.query_tokens).all()
    assert torch.equal(out.forward_passes, without.forward_passes)
    assert torch.equal(out.sequences, without.sequences) or name != "block_causal_cache"
