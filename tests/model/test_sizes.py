import pytest
import torch

from llada import LLaDAConfig, LLaDAForMaskedLM
from llada.config import config_folder, read_yaml

# total and non-embedding parameters of the published models (arXiv:2502.09992, table 5; arXiv:2606.25331)
PUBLISHED = {
    "llada_1b": (1_487_243_264, 969_246_720),
    "llada_8b": (8_015_581_184, 6_979_588_096),
    "illada_8b": (7_615_025_152, 6_979_588_096),
}
FILES = sorted((config_folder() / "model").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_size_builds_and_its_first_line_names_the_paper(file):
    assert file.read_text().startswith("# ")
    assert "arXiv:" in file.read_text().splitlines()[0]
    with torch.device("meta"):
        LLaDAForMaskedLM(LLaDAConfig(**read_yaml(file)))


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name, published):
    with torch.device("meta"):
        model = LLaDAForMaskedLM(LLaDAConfig(**read_yaml(config_folder() / "model" / f"{name}.yaml")))
    outside = {model.lm_head.weight, model.model.embed_tokens.weight}  # one of them where they are tied
    total = sum(parameter.numel() for parameter in model.parameters())
    assert (total, total - sum(weight.numel() for weight in outside)) == published
