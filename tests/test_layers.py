"""Who may import whom (DESIGN.md, section 2), read from the source of every module."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import llada

PACKAGE = Path(llada.__file__).parent
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}
ANY = "*"


class Rule(NamedTuple):
    """What a module may import beside the standard library; names stand for everything below them, too."""

    others: frozenset[str]  # packages of others
    ours: frozenset[str]  # modules of llada


def rule(others: str = "", ours: str = "") -> Rule:
    return Rule(frozenset(others.split()), frozenset(ours.split()))


# The rule with the longest name that is the module's or above it counts.
RULES = {
    # registration only: the public names are imported when they are first used
    "llada": rule(ours="llada.model.registration"),
    "llada.config": rule("pydantic yaml"),
    "llada.durable": rule(),
    "llada.splitmix": rule("torch"),
    "llada.whole": rule(),
    # what the servers of two optional extras have in common
    "llada.listening": rule("uvicorn", "llada.config"),
    "llada.estimate": rule("torch"),
    # safetensors and the hub belong to checkpoints, einops to the network
    "llada.model": rule("torch transformers safetensors huggingface_hub einops", "llada.model"),
    # what is written for others, and the description beside it
    "llada.model.export": rule("torch transformers", "llada.model llada.durable"),
    "llada.model.card": rule("yaml"),
    # a tokenizer is read in one way, with a model and with data
    "llada.model.checkpoint": rule("torch transformers huggingface_hub", "llada.model llada.data.tokenizer"),
    "llada.model.baseline": rule("torch transformers", "llada.model llada.data.tokenizer"),
    # the model's `generate` is a mixin from the sampling side
    "llada.model.modeling": rule("torch transformers einops", "llada.model llada.sampling.transformers_style"),
    "llada.train": rule(
        "accelerate torch numpy transformers tqdm safetensors",
        "llada.train llada.model llada.data llada.config llada.durable llada.estimate llada.whole",
    ),
    "llada.train.objective": rule("torch numpy", "llada.whole"),
    "llada.train.objectives": rule("torch", "llada.train.objective"),
    "llada.train.noise": rule("torch numpy"),
    "llada.train.optim": rule("torch numpy"),
    # what a batch holds is decided by the objective and the noise alone
    "llada.train.batches": rule(
        "torch numpy", "llada.train.objectives llada.train.noise llada.train.signals llada.whole"
    ),
    # the masks of a pool, by what the model said
    "llada.train.puma": rule(
        "torch", "llada.train.batches llada.train.noise llada.train.objective llada.train.objectives"
    ),
    "llada.train.config": rule("pydantic", "llada.config"),
    "llada.train.dropout": rule("torch", "llada.train.objectives llada.splitmix"),
    # the optional extra for adapters is asked for here alone
    "llada.train.lora": rule(
        "peft torch transformers safetensors", "llada.config llada.model.baseline llada.train.dropout"
    ),
    "llada.data": rule(
        "datasets tokenizers transformers numpy", "llada.data llada.durable"
    ),  # token shards are numpy memory maps
    "llada.sampling": rule("torch", "llada.sampling llada.whole"),
    # random numbers without a state
    "llada.sampling.uniforms": rule("torch", "llada.splitmix"),
    "llada.sampling.trace": rule("torch", "llada.sampling llada.durable"),
    # SamplerConfig is a schema
    "llada.sampling.config": rule("pydantic", "llada.sampling llada.config"),
    # the adapter to transformers' own way to call a generator
    "llada.sampling.transformers_style": rule("torch transformers", "llada.sampling"),
    "llada.eval": rule(
        "torch numpy",
        "llada.estimate llada.eval llada.train.objective llada.sampling llada.model llada.config llada.whole",
    ),
    # questions are put in the chat layout
    "llada.eval.answers": rule("torch transformers", "llada.data.chat llada.eval llada.model llada.sampling"),
    "llada.eval.checks": rule(),
    "llada.eval.metrics": rule(),
    "llada.eval.presets": rule("pydantic", "llada.config llada.eval.arguments llada.sampling"),
    "llada.eval.evaluation": rule("transformers lm_eval jinja2", "llada.durable llada.eval llada.model"),
    "llada.eval.intervals": rule(),
    "llada.eval.choice": rule(ours="llada.eval.intervals"),
    "llada.eval.task": rule("transformers", "llada.data.chat llada.data.conversations llada.eval.checks"),
    "llada.eval.measure": rule("transformers", "llada.eval llada.model llada.sampling"),
    # the tokenizer and the version are part of what results are results of
    "llada.eval.identity": rule("torch transformers", "llada.__version__ llada.data.tokenizer"),
    "llada.eval.results": rule("torch transformers", "llada.durable llada.eval llada.sampling"),
    "llada.eval.causal": rule("torch transformers", "llada.estimate llada.eval llada.sampling"),
    # held-out texts are read as for training
    "llada.eval.heldout": rule("torch transformers", "llada.data llada.eval"),
    "llada.eval.texts": rule("transformers", "llada.data.tokenizer"),
    "llada.eval.arguments": rule("pydantic", "llada.config llada.sampling"),
    "llada.eval.responses": rule(ours="llada.durable"),
    "llada.eval.greedy": rule("torch transformers", "llada.eval llada.sampling"),
    "llada.eval.respond": rule("torch transformers", "llada.eval llada.model llada.sampling"),
    "llada.eval.processes": rule("torch accelerate transformers", "llada.eval.arguments llada.model"),
    "llada.eval.contenders": rule("torch transformers", "llada.data.tokenizer llada.eval llada.model"),
    "llada.eval.__main__": rule("lm_eval", "llada.eval.harness"),
    "llada.eval.check_metrics": rule("lm_eval", "llada.eval.checks"),
    "llada.eval.crew": rule("tqdm transformers", "llada.eval llada.model"),
    # the adapter to lm-evaluation-harness, and what is done with it
    "llada.eval.harness": rule(
        "torch transformers lm_eval", "llada.eval llada.data.tokenizer llada.sampling llada.model"
    ),
    "llada.experiments": rule(
        "torch numpy transformers tqdm matplotlib rich pydantic",
        "llada.__version__ llada.config llada.durable llada.experiments llada.data llada.model llada.sampling "
        "llada.train llada.eval llada.show",
    ),
    # traces as text, pages and pictures
    # the optional extra for servers is asked for here alone
    "llada.serve": rule(
        "fastapi starlette prometheus_client pydantic torch transformers",
        "llada.serve llada.sampling llada.model llada.data llada.config llada.eval.answers llada.__version__",
    ),
    # a page to try a model; the optional extra for it is asked for in one module
    "llada.web": rule("torch transformers", "llada.web llada.show llada.sampling llada.model llada.data llada.config"),
    "llada.web.page": rule("gradio fastapi starlette transformers", "llada.web llada.model llada.sampling"),
    "llada.web.server": rule("fastapi uvicorn", "llada.listening"),
    "llada.show": rule("torch transformers", "llada.show llada.sampling"),
    "llada.show.levels": rule(),
    "llada.show.pieces": rule("transformers"),
    "llada.show.terminal": rule("torch transformers rich", "llada.show llada.sampling"),
    "llada.show.picture": rule("transformers matplotlib rich", "llada.show"),
    "llada.checkup": rule(ANY, ANY),
    "llada.cli": rule(ANY, ANY),
}


def is_within(name: str, allowed: frozenset[str]) -> bool:
    return ANY in allowed or any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


def rule_of(module: str) -> Rule:
    # "llada" itself stands for the package's __init__ only, so that a new folder needs a rule of its own
    names = [name for name in RULES if name == module or (name != "llada" and module.startswith(name + "."))]
    return RULES[max(names, key=len)] if names else rule()


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """Every imported module and its line, inside functions as well; what only type checkers read does not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from imports(ast.Module([other], []), package)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            # `from llada.train import run` imports llada.train.run
            names = [f"{source}.{alias.name}" for alias in node.names]
            known = {*MODULES, "llada.__version__"}  # which is no module, and no reason to allow all of them
            yield from ((name if name in known else source, node.lineno) for name in names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((name.value, node.lineno) for name in node.args[:1] if isinstance(name, ast.Constant))
        yield from imports(node, package)


def violations(module: str, source: str, package: str) -> list[str]:
    allowed = rule_of(module)
    found = []
    for name, line in imports(ast.parse(source), package):
        root = name.partition(".")[0]
        if root in sys.stdlib_module_names:
            continue
        if not is_within(name, allowed.ours if root == "llada" else allowed.others):
            found.append(f"{module}, line {line}, imports {name}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_layer_may(module):
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    assert violations(module, file.read_text(encoding="utf-8"), package) == []


def test_every_layer_has_a_rule():
    assert {name.split(".")[1] for name in MODULES if name != "llada"} <= {
        name.split(".")[1] for name in RULES if name != "llada"
    }


def test_training_and_sampling_never_import_each_other():
    for one, other in (("llada.train", "llada.sampling"), ("llada.sampling", "llada.train")):
        for module in [name for name in (*MODULES, *RULES) if name.startswith(one)]:
            assert not is_within(other, rule_of(module).ours)
            assert not any(name.startswith(other) for name in rule_of(module).ours)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.nn, math", []),
        ("import numpy", ["numpy"]),
        ("def f():\n    from transformers import AutoModel", ["transformers"]),
        ("class C:\n    import llada.train.loop", ["llada.train.loop"]),
        ("try:\n    import accelerate\nexcept ImportError:\n    pass", ["accelerate"]),
        ("from llada.train import objective", ["llada.train.objective"]),
        ("from ..train.objective import elbo_loss", ["llada.train.objective"]),
        ("from . import orders", []),
        ("from .. import config", ["llada.config"]),
        ("importlib.import_module('datasets')", ["datasets"]),
        ("if TYPE_CHECKING:\n    import transformers\nelse:\n    import datasets", ["datasets"]),
        ("if True:\n    import datasets", ["datasets"]),
    ],
)
def test_the_reader_of_imports_sees_them_wherever_they_are(source, found):
    told = violations("llada.sampling.new", source, "llada.sampling")
    assert [line.rpartition(" ")[2] for line in told] == found


def test_no_module_has_a_name_that_says_nothing():
    nothing = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
    assert not [name for name in MODULES if name.rpartition(".")[2].strip("_") in nothing]


def test_a_long_file_explains_itself():
    """A module docstring of at least three lines counts as an explanation above 300 lines."""
    for module, file in MODULES.items():
        source = file.read_text(encoding="utf-8")
        if len(source.splitlines()) > 300:
            assert len((ast.get_docstring(ast.parse(source)) or "").splitlines()) >= 3, module


# What an import costs


def fresh_process(script: str):
    """What the script prints as JSON, run in a Python process of its own."""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_importing_the_package_imports_nothing_heavy():
    loaded = fresh_process("import sys, json, llada; print(json.dumps([m.partition('.')[0] for m in sys.modules]))")
    heavy = {
        "torch",
        "transformers",
        "accelerate",
        "datasets",
        "tokenizers",
        "numpy",
        "pydantic",
        "yaml",
        "typer",
        "lm_eval",
    }
    assert heavy.isdisjoint(loaded)


@pytest.mark.slow
def test_importing_the_package_takes_a_small_part_of_the_time_that_torch_takes():
    script = (
        "import json, time; start = time.perf_counter(); import torch; middle = time.perf_counter(); import llada;"
        "print(json.dumps([middle - start, time.perf_counter() - middle]))"
    )
    times = [fresh_process(script) for _ in range(3)]
    assert min(ours for _, ours in times) < min(torch for torch, _ in times) / 3


def test_every_public_name_exists_and_an_unknown_one_lists_them():
    assert all(getattr(llada, name) is not None for name in llada.__all__)
    assert set(llada.__all__) <= set(dir(llada))
    with pytest.raises(AttributeError, match=r"module 'llada' has no attribute 'generat'; it has .*generate"):
        llada.generat  # noqa: B018
