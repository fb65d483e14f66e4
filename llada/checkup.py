"""What can be wrong with an installation, and a run of everything in small that shows whether it works."""

import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from enum import Enum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from llada import __version__

DISTRIBUTION = "llada-lm"
EXTRAS = {  # the modules that each is for and that are imported here
    "eval": ("lm_eval",),
    "lora": ("peft",),
    "plot": ("matplotlib",),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "ui": ("gradio", "fastapi", "uvicorn"),
}


class Health(Enum):
    GOOD = "ok"
    POOR = "note"  # works, with less
    BAD = "fails"


class Finding(NamedTuple):
    health: Health
    what: str
    found: str
    advice: str = ""


def checkup() -> Iterator[Finding]:
    """All findings, the quick ones first. Nothing is raised: what goes wrong is a finding."""
    yield Finding(Health.GOOD, "Python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding(Health.GOOD, "llada", f"{__version__} in {Path(__file__).parent}")
    for look in (_packages, _extras, _devices, _threads, _dtypes, _files, _end_to_end):
        try:
            yield from look()
        except Exception as error:  # a broken installation may raise anything
            told = f"{type(error).__name__}: {error}"
            yield Finding(Health.BAD, look.__name__.strip("_").replace("_", " "), told, "report this with all above")


def _packages() -> Iterator[Finding]:
    """Those that are needed, and whether they are new enough."""
    try:
        needed = [line for line in requires(DISTRIBUTION) or () if "extra ==" not in line]
    except PackageNotFoundError:
        advice = f"pip install {DISTRIBUTION}, or pip install -e . in a checkout"
        yield Finding(Health.POOR, DISTRIBUTION, "is not installed as a package", advice)
        return
    for line in needed:
        name, least = re.match(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(Health.BAD, name, "missing", f"pip install '{line}'")
            continue
        if least is not None and _numbers(found) < _numbers(least):
            yield Finding(Health.BAD, name, f"{found}, older than {least}", f"pip install -U '{line}'")
        else:
            yield Finding(Health.GOOD, name, found)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"[\d.]*", text).group().split(".") if part)  # pyright: ignore[reportOptionalMemberAccess]


def _extras() -> Iterator[Finding]:
    from importlib.util import find_spec

    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            advice = f"pip install '{DISTRIBUTION}[{extra}]' where you want it"
            yield Finding(Health.POOR, f"extra {extra}", f"{', '.join(missing)} is not installed", advice)
        else:
            found = ", ".join(f"{module} {version(module)}" for module in modules)
            yield Finding(Health.GOOD, f"extra {extra}", found)


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            yield Finding(Health.GOOD, f"cuda:{number}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB")
    elif torch.backends.mps.is_available():
        yield Finding(Health.POOR, "mps", "is there", "samplers draw in float64, which mps has not; take the CPU")
    else:
        built = torch.version.cuda
        advice = "" if built is None else "this torch is built for CUDA, but finds no GPU; see nvidia-smi"
        yield Finding(Health.POOR if built else Health.GOOD, "device", "the CPU", advice)


def _threads() -> Iterator[Finding]:
    import os

    import torch

    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not every system tells
        cores = 0
    threads = torch.get_num_threads()
    if cores and threads > cores:
        yield Finding(Health.POOR, "threads", f"{threads} for {cores} cores", f"set OMP_NUM_THREADS={cores}")
    else:
        yield Finding(Health.GOOD, "threads", f"{threads} for {cores or 'unknown'} cores")


def _dtypes() -> Iterator[Finding]:
    """Whether half precision is faster than float32 where a model would run."""
    import time

    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def seconds(dtype: torch.dtype) -> float:
        a = torch.randn(512, 512, device=device).to(dtype)
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            _ = float((a @ a).sum())  # waits for the device
            best = min(best, time.perf_counter() - begun)
        return best

    ratio = seconds(torch.float32) / seconds(torch.bfloat16)
    told = f"products in bfloat16 are {ratio:.2g} times as fast as in float32"
    yield Finding(Health.GOOD, "dtypes", told, "" if ratio > 1 else "train and sample in float32 here")


def _files() -> Iterator[Finding]:
    from llada.config import config_folder

    found = sorted(path.name for path in config_folder().iterdir()) if config_folder().is_dir() else []
    if "sampling" in found:
        yield Finding(Health.GOOD, "configs", f"{config_folder()}: {', '.join(found)}")
    else:
        yield Finding(Health.BAD, "configs", f"{config_folder()} has no sampling", f"reinstall {DISTRIBUTION}")


def _end_to_end() -> Iterator[Finding]:
    """Text → tokenizer → training → file → samples → likelihood, in a second."""
    import torch

    import llada
    from llada.data.tokenizer import SMALLEST_VOCABULARY, SPECIAL_TOKENS, encode, train_tokenizer
    from llada.train.optim import adamw

    text = "every token of this text is masked and told again "
    tokenizer = train_tokenizer([text], SMALLEST_VOCABULARY)
    x0 = torch.tensor([encode(tokenizer, text)])
    mask, eos = (SPECIAL_TOKENS.index(token) for token in (SPECIAL_TOKENS.mask, SPECIAL_TOKENS.eos))  # their ids
    config = llada.LLaDAConfig(
        d_model=32,
        n_layers=2,
        n_heads=2,
        mlp_hidden_size=64,
        vocab_size=len(tokenizer),
        mask_token_id=mask,
        eos_token_id=eos,
        max_sequence_length=128,
    )
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = llada.LLaDAForMaskedLM(config)
        (optimizer,) = adamw(model)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        losses = []
        for step in range(60):
            noised = llada.forward_process(x0.expand(16, -1), mask, generator=_seeded(step))
            loss = llada.elbo_loss(model(noised.xt).logits, x0.expand(16, -1), noised, lengths=x0.shape[1])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
        yield _whether(last < first, "training", f"loss {first:.2f} to {last:.2f} nats per token in 60 steps")
        model.eval().save_pretrained(Path(folder) / "model")
        tokenizer.save_pretrained(Path(folder) / "model")
        loaded, its_tokenizer = llada.load_pretrained(Path(folder) / "model")
        same = torch.equal(model(x0).logits, loaded(x0).logits) and its_tokenizer is not None
        yield _whether(same, "saving", "a model that is saved and loaded predicts the same, bit for bit")
    prompt = x0[:, :10]
    out = llada.generate(loaded, prompt, sampler=llada.SamplerConfig(gen_length=8))
    filled = bool((out.sequences[:, 10:] != mask).all())
    yield _whether(filled and int(out.forward_passes) == 8, "sampling", "8 tokens in 8 forward passes")
    bound = llada.log_likelihood(loaded, prompt[0].tolist(), x0[0, 10:].tolist(), 16)
    yield _whether(
        bound.value < 0 < bound.stderr, "likelihood", f"bound of {bound.value:.1f} ± {bound.stderr:.1f} nats"
    )


def _seeded(seed: int):
    import torch

    return torch.Generator().manual_seed(seed)


def _whether(true: bool, what: str, found: str) -> Finding:
    if true:
        return Finding(Health.GOOD, what, found)
    return Finding(Health.BAD, what, f"not so: {found}", f"report this, with {sys.version.split()[0]} and all above")
