"""How far each published sampler is from the distribution of a perfect model, on the test bed of three tokens.

    python scripts/sampler_laws.py [--draws 200000]

Every file of configs/sampling draws that often at temperature 1 from the exact conditionals of a distribution over 27
sequences. Printed is the total variation between what it draws and the distribution: 0 is exact, and an exact sampler
shows the noise in the last line. The exact laws behind these estimates are enumerated in tests/sampling/test_laws.py.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from bed import BED  # noqa: E402  # pyright: ignore[reportMissingImports]  # the tests' distribution

from llada.config import read_yaml  # noqa: E402
from llada.sampling.config import SamplerConfig  # noqa: E402
from llada.sampling.generate import generate  # noqa: E402
from llada.sampling.reveals import REVEALS  # noqa: E402


class Oracle:
    """The perfect model of the bed; each of the few different canvases is computed once."""

    config = SimpleNamespace(mask_token_id=BED.mask, eos_token_id=2)

    def __call__(self, input_ids: Tensor, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        base = (BED.vocab + 1) ** torch.arange(BED.length)
        codes, which = (input_ids * base).sum(dim=1).unique(return_inverse=True)
        canvases = codes[:, None] // base % (BED.vocab + 1)
        return SimpleNamespace(logits=BED.oracle(canvases)[which])


def sampler(file: Path, steps: int, background: str) -> SamplerConfig | None:
    """The published sampler on three tokens in so many steps; None where it does not take that number."""
    values: dict[str, Any] = read_yaml(file) | {"gen_length": 3, "temperature": 1.0, "steps": steps}
    values.pop("block_length", None)
    if values.get("order") == "position_calibrated":
        values["background"] = background
    if "cache" in values:
        return None  # an approximation of a network's keys and values, of which the bed's model has none
    if any(values.get(field) for field in ("cfg_scale", "longest", "forbid_eos", "eos_last", "stop_at_eos")):
        return None  # guidance and what is done about the end of sequence are meant to leave the distribution
    reveal = values.get("reveal", "top_k")
    if REVEALS[reveal].adaptive or "speculation" in values:
        values["steps"] = None
        return SamplerConfig(**values) if steps == 3 else None
    values["steps"] = 3 * steps if reveal == "gibbs" else steps
    return SamplerConfig(**values)


def variation(config: SamplerConfig, draws: int) -> float:
    """Total variation between what it draws and the distribution."""
    prompt = torch.zeros(draws, 0, dtype=torch.long)
    drawn = BED.index(generate(Oracle(), prompt, None, config).sequences)
    return float((drawn.bincount(minlength=27) / draws - BED.p).abs().sum() / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200_000)
    draws = parser.parse_args().draws
    with tempfile.NamedTemporaryFile("w", suffix=".json") as background:
        background.write("[3, 2, 1, 1]")
        background.flush()
        print(f"{'sampler':24}{'3 steps':>10}{'2 steps':>10}")
        for file in sorted((ROOT / "configs" / "sampling").glob("*.yaml")):
            cells = []
            for steps in (3, 2):
                config = sampler(file, steps, background.name)
                cells.append("-" if config is None else f"{variation(config, draws):.3f}")
            print(f"{file.stem:24}{cells[0]:>10}{cells[1]:>10}")
    drawn = torch.multinomial(BED.p, draws, replacement=True, generator=torch.Generator().manual_seed(0))
    print(f"{'(exact draws)':24}{float((drawn.bincount(minlength=27) / draws - BED.p).abs().sum() / 2):>10.3f}")


if __name__ == "__main__":
    main()
