"""The tokens of the original and of Fast-dLLM, one by one."""

import pytest
import torch
from golden_model import CASES, EOS, EOT, MASK, load_golden
from torch import Tensor

from llada.sampling.denoise import denoise
from llada.sampling.generate import SamplerConfig, generate
from llada.sampling.orders import confidence, excluding
from llada.sampling.predictors import plain
from llada.sampling.reveals import Step

golden = pytest.fixture(scope="module")(load_golden)


def sampler_of(case: dict) -> SamplerConfig:
    by_threshold = {"reveal": "threshold", "threshold": case.get("threshold")}  # the original ignores steps there
    return SamplerConfig(
        **(by_threshold if "threshold" in case else {"steps": case["steps"]}),
        gen_length=case["gen_length"],
        block_length=case["block_length"],
        cfg_scale=case.get("cfg_scale", 0.0),
        forbid_eos=case.get("logits_eos_inf", False),
        eos_last=case.get("confidence_eos_eot_inf", False),
        cache=case.get("cache", "none"),
    )


def prompt_of(reference: dict, case: str) -> tuple[Tensor, Tensor | None]:
    return reference[f"{case}.prompt"], reference.get(f"{case}.attention_mask")


TIES = 8  # with EOS last, several drafts score exactly 0, and torch.topk's order of equal scores is its own


@pytest.mark.parametrize("case", [c for c in CASES["generate"] if c["index"] != TIES], ids=lambda c: str(c["index"]))
def test_tokens_are_those_of_the_original(golden, case):
    model, reference = golden
    out = generate(model, *prompt_of(reference, f"generate.{case['index']}"), sampler_of(case))
    assert torch.equal(out.sequences, reference[f"generate.{case['index']}.output"])
    evaluations = case["steps"] * (2 if "cfg_scale" in case else 1)
    assert (out.forward_passes == evaluations).all()


def test_tokens_are_those_of_the_original_where_equal_scores_are_broken_as_it_did(golden):
    """We reveal the leftmost of equal scores, so that padding cannot matter; the original asked torch.topk."""
    model, reference = golden
    prompt, _ = prompt_of(reference, f"generate.{TIES}")
    sampler = sampler_of(CASES["generate"][TIES])
    P, length = prompt.shape[1], sampler.gen_length

    def torch_topk(step: Step) -> Tensor:
        everywhere = torch.full((len(prompt), P + length), -torch.inf)  # the original ranked the whole canvas
        everywhere[:, P:] = torch.where(step.masked, step.score.clamp(min=0), -torch.inf)
        chosen = everywhere.topk(int(step.count[0]), dim=1).indices
        return ~step.masked | torch.zeros_like(everywhere, dtype=torch.bool).scatter(1, chosen, True)[:, P:]

    states = list(
        denoise(
            plain(model),
            torch.cat((prompt, torch.full((len(prompt), length), MASK)), dim=1),
            MASK,
            blocks=[slice(P, P + length)],
            steps=sampler.steps,
            order=excluding(confidence, [EOS, EOT]),
            reveal=torch_topk,
        )
    )
    expected = reference[f"generate.{TIES}.output"]
    assert torch.equal(states[-1].canvas, expected)
    ours = generate(model, prompt, None, sampler).sequences
    assert torch.equal(ours[0], expected[0])  # no equal scores in this row
    assert not torch.equal(ours[1], expected[1])


@pytest.mark.parametrize("case", CASES["fast"], ids=lambda c: f"{c['cache']}-{c['index']}")
def test_tokens_and_predictions_are_those_of_fast_dllm(golden, case):
    """With and without its caches and its threshold, which it compares with the probability of the draft."""
    model, reference = golden
    out = generate(model, *prompt_of(reference, f"fast.{case['index']}"), sampler_of(case))
    assert torch.equal(out.sequences, reference[f"fast.{case['index']}.output"])
    assert out.forward_passes.tolist() == [case["nfe"]]
