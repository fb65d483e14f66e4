"""The wheel alone, away from the source tree: what it holds, and that it works."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # no isolation: building in a fresh environment would download the build backend
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target), str(wheel), cwd=target)
    return target


def python(installed: Path, *arguments: str) -> str:
    """Run Python with the installed wheel before everything else, and without the source tree on its path."""
    return run(sys.executable, "-P", *arguments, cwd=installed.parent, PYTHONPATH=str(installed), OMP_NUM_THREADS="1")


def test_the_wheel_holds_the_package_its_configurations_and_its_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f.relative_to(ROOT).as_posix() for f in (ROOT / "llada").rglob("*") if f.suffix in (".py", ".typed")}
    expected |= {f"llada/{f.relative_to(ROOT).as_posix()}" for f in (ROOT / "configs").rglob("*.yaml")}
    assert "llada/py.typed" in expected
    assert "llada/configs/sampling/low_confidence.yaml" in expected
    assert expected <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_holds_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].rpartition(".")[2] for name in names} == {"llada", "dist-info"}
    assert not [name for name in names if "__pycache__" in name or "tests/" in name]


def test_the_metadata_names_version_licence_and_command(wheel):
    import llada

    archive = zipfile.ZipFile(wheel)
    read = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert f"\nVersion: {llada.__version__}\n" in read["METADATA"]
    assert "\nLicense-Expression: Apache-2.0\n" in read["METADATA"]
    assert "llada = llada.cli:main" in read["entry_points.txt"]


WORKS = """
import pathlib, sys
import llada, llada.config
target = pathlib.Path(sys.argv[1])
assert pathlib.Path(llada.__file__).is_relative_to(target), llada.__file__
folder = llada.config.config_folder()
assert folder.is_relative_to(target), folder

import torch
torch.manual_seed(0)
config = llada.LLaDAConfig(
    d_model=32, n_layers=2, n_heads=4, mlp_hidden_size=48, vocab_size=40, mask_token_id=5, eos_token_id=3
)
model = llada.LLaDAForMaskedLM(config).eval()
names = sorted(file.stem for file in (folder / "sampling").glob("*.yaml"))
assert "low_confidence" in names, names
for name in names:
    needed = {"background": "counts.json"} if name == "position_calibrated" else {}
    assert isinstance(llada.SamplerConfig.named(name, **needed), llada.SamplerConfig)
sampler = llada.SamplerConfig.named("low_confidence", steps=4, gen_length=8, block_length=8)
out = llada.generate(model, torch.tensor([[7, 8, 9]]), sampler=sampler, seed=0)
assert out.sequences.shape == (1, 11) and (out.sequences[:, :3] == torch.tensor([7, 8, 9])).all()
assert not (out.sequences == 5).any()
for file in (folder / "model").glob("*.yaml"):
    llada.LLaDAConfig(**llada.config.read_yaml(file))
model.save_pretrained(sys.argv[2])
loaded, _ = llada.load_pretrained(sys.argv[2])
assert torch.equal(loaded(out.sequences).logits, model(out.sequences).logits)
assert all(getattr(llada, name) is not None for name in llada.__all__)
optional = {"datasets", "lm_eval", "matplotlib", "gradio", "fastapi", "uvicorn", "tensorboard", "wandb", "trackio"}
assert optional.isdisjoint(sys.modules), optional & sys.modules.keys()
print("works")
"""


def test_the_installed_wheel_works_alone_and_loads_no_optional_extra(installed, tmp_path):
    assert python(installed, "-c", WORKS, str(installed), str(tmp_path)).splitlines()[-1] == "works"


def test_the_command_of_the_installed_wheel_tells_its_commands(installed):
    told = python(installed, "-c", "import sys; sys.argv = ['llada', '--help']; from llada.cli import main; main()")
    for command in ("pretrain", "sft", "generate", "prepare"):
        assert command in told
