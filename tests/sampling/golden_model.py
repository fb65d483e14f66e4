"""The golden model, and samplers to run on it."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import llada
from llada.sampling.generate import SamplerConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-mha"
CASES = json.loads((GOLDEN / "reference.json").read_text())
MASK, EOS, EOT = CASES["mask_token_id"], CASES["eos_token_id"], CASES["eot_token_id"]


def load_golden():
    model, _ = llada.load_pretrained(GOLDEN)
    model.config.eot_token_id = EOT
    return model, load_file(GOLDEN / "reference.safetensors")


def prompts(rows: int, length: int = 6) -> Tensor:
    return torch.randint(0, 200, (rows, length), generator=torch.Generator().manual_seed(rows))


SAMPLERS = {
    "greedy": SamplerConfig(gen_length=12),
    "drawn": SamplerConfig(gen_length=12, steps=6, temperature=0.9),
    "random": SamplerConfig(gen_length=12, steps=4, temperature=1.0, order="random"),
    "blocks": SamplerConfig(gen_length=12, steps=6, block_length=4, temperature=0.7),
    "guided": SamplerConfig(gen_length=12, steps=6, temperature=0.7, cfg_scale=0.5),
    "ends last": SamplerConfig(gen_length=12, steps=6, temperature=0.7, eos_last=True),
    "stops": SamplerConfig(gen_length=12, temperature=0.7, block_length=4, stop_at_eos=True),
}


class Constant(nn.Module):
    """Predicts the same distribution everywhere; counts its evaluations."""

    def __init__(self, logits: Tensor, **config):
        super().__init__()
        self.logits = logits
        self.config = SimpleNamespace(**{"mask_token_id": 0, **config})
        self.calls = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None):
        self.calls += 1
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))
