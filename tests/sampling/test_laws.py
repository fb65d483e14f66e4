"""Output laws of the samplers by exact enumeration (ids T13, T15, T16 of the specification)."""

import json
from pathlib import Path

import pytest
import torch
from bed import BED, BEDS
from laws import entropy, output_law, total_variation

from llada.sampling.denoise import denoise
from llada.sampling.orders import confidence

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "bed.json").read_text())
SMALL = {name: bed for name, bed in BEDS.items() if name != "L4V2"}  # enumerating 4 steps on L4V2 takes minutes


def published_law(name: str) -> torch.Tensor:
    table = PUBLISHED[name].get("law", PUBLISHED[name])
    return torch.tensor([table["".join(map(str, x.tolist()))] for x in BED.sequences], dtype=torch.float64)


@pytest.mark.parametrize(
    ("counts", "variation"), [((3,), 0.1394565316), ((2, 1), 0.0395169881), ((1, 2), 0.0891056205), ((1, 1, 1), 0.0)]
)
def test_t13_random_order_with_fixed_counts_has_the_published_law(counts, variation):
    law, predictions = output_law(BED, "oracle", steps=len(counts), counts=counts)
    assert predictions == len(counts)
    assert total_variation(law, BED.p) == pytest.approx(variation, abs=1e-9)
    assert torch.allclose(law, published_law("random_fixed_" + "_".join(map(str, counts))), atol=1e-12)


def test_t13_two_steps_share_three_tokens_as_two_and_one():
    assert torch.equal(output_law(BED, "oracle", steps=2)[0], output_law(BED, "oracle", steps=2, counts=(2, 1))[0])


@pytest.mark.parametrize("name", SMALL)
def test_t15_random_order_one_token_per_step_is_exact(name):
    bed = SMALL[name]
    law, predictions = output_law(bed, "oracle", steps=bed.length)
    assert predictions == bed.length
    assert torch.allclose(law, bed.p, atol=1e-12)


def test_t15_random_order_of_any_predictor_is_a_distribution_with_the_published_likelihoods():
    law, _ = output_law(BED, "bad", steps=3)
    published = published_law("bad_random_order_ll").exp()
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(law, published, atol=1e-12)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1), (1, 2), (3,)])
def test_t15_blocks_of_any_length_are_exact_with_one_token_per_step(sizes):
    """Each block decoded one token at a time, positions to its right visible as [MASK]."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    law = block_law([slice(a, a + n) for a, n in zip(starts, sizes, strict=True)])
    assert torch.allclose(law, BED.p, atol=1e-12)


def block_law(blocks: list[slice]) -> torch.Tensor:
    """Law of the random order inside blocks, by recursion over blocks: `output_law` of each from every prefix."""
    law = {(BED.mask,) * 3: 1.0}
    for block in blocks:
        after: dict[tuple[int, ...], float] = {}
        for canvas, weight in law.items():
            size = block.stop - block.start
            for state, p in partial_law(torch.tensor([canvas]), block, size).items():
                after[state] = after.get(state, 0.0) + weight * p
        law = after
    return torch.tensor([law.get(tuple(x.tolist()), 0.0) for x in BED.sequences], dtype=torch.float64)


def partial_law(canvas: torch.Tensor, block: slice, steps: int) -> dict[tuple[int, ...], float]:
    """Law over canvases after one block, with every draw and order scripted one step at a time."""
    states = {tuple(canvas[0].tolist()): 1.0}
    for _ in range(steps):
        after: dict[tuple[int, ...], float] = {}
        for state, weight in states.items():
            hidden = [i for i in range(block.start, block.stop) if state[i] == BED.mask]
            for position in hidden:
                for token in range(BED.vocab):
                    one = one_reveal(torch.tensor([state]), block, position, token)
                    p = BED.oracle(torch.tensor([state]))[0, position, : BED.vocab].softmax(-1)[token]
                    after[one] = after.get(one, 0.0) + weight * float(p) / len(hidden)
        states = after
    return states


def one_reveal(canvas: torch.Tensor, block: slice, position: int, token: int) -> tuple[int, ...]:
    """The loop's first step when its order prefers `position` and its draw is `token`."""
    score = torch.zeros(1, 3)
    score[0, position] = 1.0
    states = denoise(
        lambda canvas, block: BED.oracle(canvas)[:, block],
        canvas,
        BED.mask,
        blocks=[block],
        draft=lambda logits, masked, uniforms: torch.full_like(masked, token, dtype=torch.long),
        order=lambda logits, draft, uniforms: score[:, block],
    )
    return tuple(next(states).canvas[0].tolist())


@pytest.mark.parametrize("first", range(3))
def test_t15_infilling_around_a_fixed_token_samples_the_conditional(first):
    canvas = torch.tensor([[BED.mask, first, BED.mask]])
    law, predictions = output_law(BED, "oracle", steps=2, canvas=canvas)
    given = BED.p * (BED.sequences[:, 1] == first)
    assert predictions == 2
    assert torch.allclose(law, given / given.sum(), atol=1e-12)


def test_t16_low_confidence_at_temperature_one_is_biased_as_published():
    law, predictions = output_law(BED, "oracle", steps=3, order=confidence)
    assert predictions == 3
    assert total_variation(law, BED.p) == pytest.approx(0.3416738132, abs=1e-9)
    assert entropy(law) == pytest.approx(2.6077422616, abs=1e-9)
    assert torch.allclose(law, published_law("lowconf_T1_law_oracle"), atol=1e-12)


@pytest.mark.parametrize(
    ("steps", "sequence"), [(3, (2, 2, 2)), (2, (2, 2, 2)), (1, (2, 2, 1))], ids=["1+1+1", "2+1", "3"]
)
def test_greedy_low_confidence_reveals_the_published_sequence(steps, sequence):
    canvas = torch.full((1, 3), BED.mask)
    states = list(denoise(lambda c, b: BED.oracle(c)[:, b], canvas, BED.mask, steps=steps))
    assert tuple(states[-1].canvas[0].tolist()) == sequence
    if steps == 3:
        visible = [s.visible[0].nonzero()[:, 0].tolist() for s in states]
        assert visible == [[1], [0, 1], [0, 1, 2]]
