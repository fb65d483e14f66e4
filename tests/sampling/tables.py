"""Random tables of conditionals, as models that speculation is tried on."""

from dataclasses import dataclass, field

import torch

from llada.sampling.denoise import State

MASK = 3  # of the tables


@dataclass
class Table:
    """Random logits for every canvas of 5 tokens out of 3, and what was asked; [MASK] looks likeliest everywhere."""

    seed: int
    noise: float = 1.0  # how much the logits depend on the canvas: at 0 every draft comes true
    calls: list[int] = field(default_factory=list)  # the number of canvases in each

    def __post_init__(self):
        generator = torch.Generator().manual_seed(self.seed)
        self.logits = torch.randn(5, MASK + 1, generator=generator, dtype=torch.float64) + self.noise * torch.randn(
            (MASK + 1) ** 5, 5, MASK + 1, generator=generator, dtype=torch.float64
        )
        self.logits[..., MASK] = 9.0

    def __call__(self, canvas: torch.Tensor, block: slice) -> torch.Tensor:
        self.calls.append(len(canvas))
        powers = (MASK + 1) ** torch.arange(5)
        return self.logits[(canvas * powers).sum(dim=1), block]


def canvases(seed: int) -> torch.Tensor:
    """All masked, partly masked twice, and complete: rows that finish at different times."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(MASK, (4, 5), generator=generator)
    masked = torch.rand(4, 5, generator=generator) < torch.tensor([1.0, 0.7, 0.4, 0.0])[:, None]
    return tokens.masked_fill(masked, MASK)


def final(rounds, canvas: torch.Tensor) -> torch.Tensor:
    """Where a sampler ends; it yields nothing where there is nothing to do."""
    for given in rounds:
        canvas = given.canvas
    return canvas


def settled(states: list[State], canvas: torch.Tensor) -> dict[tuple[int, int], list[float]]:
    """Token, probability and score of every token that was revealed, by row and position in the canvas."""
    known = {}
    for state in states:
        revealed = (canvas[:, state.block] == MASK) & state.visible
        rows, places = revealed.nonzero(as_tuple=True)
        of = torch.stack([given[revealed].double() for given in (state.draft, state.probability, state.score)], dim=1)
        first = state.block.indices(canvas.shape[1])[0]
        known |= dict(zip(zip(rows.tolist(), (places + first).tolist(), strict=True), of.tolist(), strict=True))
        canvas = state.canvas
    return known
