"""Tasks of lm-evaluation-harness, one after another, and the folder of their results.

The folder holds `subject.json` (what is evaluated), `responses/TASK` (all answers so far: an evaluation that was killed
goes on with the next), `samples/TASK.jsonl` and `results.json`, written anew after each task with those before it.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from jinja2 import UndefinedError
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from llada.durable import check_is_folder, partial_path, publish_file
from llada.eval.arguments import Settings, check_guidance
from llada.eval.crew import Crew
from llada.eval.harness import LLaDAHarness
from llada.eval.identity import identity
from llada.eval.metrics import description
from llada.eval.presets import Preset, TaskSettings
from llada.eval.processes import Processes
from llada.eval.responses import Response, Responses, different, key_of
from llada.model.modeling import LLaDAForMaskedLM

_PARTS = ("results", "groups", "n-shot", "versions", "n-samples")  # of what lm_eval tells of a task


def manager_of(names: Iterable[str], include_path: Path | None) -> TaskManager:
    """What knows the tasks: the folder alone where it has all of them, as to index those of lm_eval takes a while."""
    if include_path is None:
        return TaskManager()
    if not include_path.is_dir():
        raise FileNotFoundError(f"{include_path} is no folder of task files")
    own = TaskManager(include_path=str(include_path), include_defaults=False)
    return own if {*names} <= {*own.all_tasks} else TaskManager(include_path=str(include_path))


def check_tasks(preset: Preset, manager: TaskManager, *, allow_code: bool) -> None:
    """Raise ValueError for unknown tasks, for those that run code unless it is allowed, and for what they lack.

    What they lack are columns that they name, examples where shots are asked for, and texts to write where the sampler
    guides as likelihoods cannot be guided.
    """
    for name, how in preset.tasks.items():
        if name not in manager.all_tasks:
            raise ValueError(f"unknown task {name!r}; `lm_eval ls tasks` lists all, --include-path adds your own")
        with _columns(name):
            found = manager.load([name])["tasks"]
        for task_name, task in found.items():
            if task.get_config("unsafe_code") and not allow_code:
                raise ValueError(f"{task_name} runs code that the model writes; allow it with --allow-code-execution")
            if how.shots and task.get_config("num_fewshot") == 0:
                raise ValueError(f"{task_name} is a task without examples, but shots={how.shots}; leave shots out")
            if task.OUTPUT_TYPE != "generate_until":
                check_guidance(how.sampler)
            if isinstance(task, ConfigurableTask):
                _check_columns(task_name, task)


def subject_of(
    model: LLaDAForMaskedLM, tokenizer: PreTrainedTokenizerBase, *, seed: int, limit: int | None, chat: bool
) -> dict[str, Any]:
    """What all results of a folder have in common, apart from the batch size and the number of processes."""
    more = {"seed": seed, "limit": limit, "chat": chat, "lm_eval": version("lm_eval")}
    return identity(model, tokenizer) | more


def evaluate(
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    preset: Preset,
    manager: TaskManager,
    processes: Processes,
    *,
    output: Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    limit: int | None = None,
    allow_code: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Results by task, on the first process; nothing on others.

    Raises ValueError where the folder is of another subject, and where a task cannot be asked.
    """
    subject = subject_of(model, tokenizer, seed=seed, limit=limit, chat=preset.chat)
    if output is not None:
        processes.first_alone(partial(_claim, output, subject))
    told = {"subject": subject, "batch_size": batch_size, "processes": processes.count, "command": command}
    results: dict[str, Any] = {}
    for name, how in preset.tasks.items():
        folder = None if output is None else output / "responses" / name
        asked = json.loads(how.model_dump_json())
        responses = Responses(folder, subject | {"task": name, "asked": asked}, rank=processes.rank)
        crew = Crew(model, tokenizer, responses, processes)
        if processes.rank > 0:
            crew.serve()
            continue
        with crew.leading():
            settings = Settings(
                sampler=how.sampler, samples=how.samples, precision=how.precision, seed=seed, batch_size=batch_size
            )
            lm = LLaDAHarness(model, tokenizer, settings, crew, Processes(str(processes.device), alone=True))
            found = _asked(lm, name, how, preset, manager, limit=limit, allow_code=allow_code)
            samples: dict[str, list[dict[str, Any]]] = found.pop("samples")
            told_of = {part: found[part] for part in _PARTS if part in found}
            told_of["seeds"] = {part: value for part, value in found["config"].items() if part.endswith("_seed")}
            estimates = {part: about(rows, responses) for part, rows in samples.items()}
            results[name] = {"asked": asked, **told_of, "estimates": estimates}
            if output is not None:
                _publish(output, samples, told | {"tasks": _read(output / "results.json").get("tasks", {}) | results})
    return results


def about(samples: Sequence[dict[str, Any]], responses: Responses) -> dict[str, float]:
    """How sure the likelihoods of a task are and what its texts are like; each sample gets its `stderr`, in nats."""
    known = [[_response(responses, arguments) for arguments in sample["arguments"]] for sample in samples]
    found: dict[str, float] = {"contexts_cut": sum(any(one.get("dropped") for one in each) for each in known)}
    scored = [each for each in known if "stderr" in each[0]]
    if scored:
        for sample, each in zip(samples, known, strict=True):
            sample["stderr"] = [one["stderr"] for one in each]
        every = [one for each in scored for one in each]
        errors = [one["stderr"] for one in every]
        found |= {"stderr_mean": sum(errors) / len(errors), "stderr_max": max(errors)}
        found["evaluations_mean"] = sum(one["evaluations"] for one in every) / len(every)
    if choices := [each for each in scored if len(each) > 1]:
        found["undecided"] = sum(map(_is_undecided, choices)) / len(choices)
    if texts := [each[0] for each in known if "ids" in each[0]]:
        found |= description([one["ids"] for one in texts], [one["ended"] for one in texts])
    return found


def _is_undecided(choices: Sequence[Response]) -> bool:
    """Whether the best two are closer to each other than two standard errors of their difference."""
    best, second = sorted(choices, key=lambda one: -one["value"])[:2]
    return best["value"] - second["value"] < 2 * math.hypot(best["stderr"], second["stderr"])


def _asked(
    lm: LLaDAHarness,
    name: str,
    how: TaskSettings,
    preset: Preset,
    manager: TaskManager,
    *,
    limit: int | None,
    allow_code: bool,
) -> dict[str, Any]:
    with _columns(name):
        found = cast(Callable[..., Any], simple_evaluate)(  # whose decorator hides its parameters
            lm,
            tasks=[name],
            num_fewshot=how.shots,
            limit=limit,
            apply_chat_template=preset.chat,
            fewshot_as_multiturn=preset.chat,
            task_manager=manager,
            bootstrap_iters=1000,  # 100000 is lm_eval's own, which takes longer than a small evaluation
            confirm_run_unsafe_code=allow_code,
        )
    return cast(dict[str, Any], found)


def _check_columns(name: str, task: ConfigurableTask) -> None:
    """Raise ValueError for the bare name of a column that is not there: lm_eval would take it for the text itself."""
    for part in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        column = task.get_config(part)
        if isinstance(column, str) and column.isidentifier() and column not in task.features:
            has = ", ".join(task.features)
            raise ValueError(f"task {name}: {part} names the column {column!r}, which is not in its data; it has {has}")


@contextmanager
def _columns(name: str) -> Iterator[None]:
    try:
        yield
    except (UndefinedError, KeyError) as error:
        raise ValueError(f"task {name}: a column that it names is not in its data: {error}") from error


def _claim(output: Path, subject: Mapping[str, Any]) -> None:
    """Make the folder that of this subject; ValueError where it is another one's, or holds anything else."""
    file = output / "subject.json"
    check_is_folder(output)
    if not file.exists():
        output.mkdir(parents=True, exist_ok=True)
        left = {partial_path(file).name}  # by a kill
        if others := sorted({path.name for path in output.iterdir()} - left):
            raise FileExistsError(
                f"{output} exists and holds {others[0]}, but no results of `llada evaluate`; name another folder"
            )
        publish_file(file, json.dumps(subject).encode())
    if told := different(_read(file), subject):
        raise ValueError(
            f"{output} holds results of another subject: {told}. Name another folder, or set these as there"
        )


def _read(file: Path) -> dict[str, Any]:
    """What a file of results holds, nothing where there is none; ValueError where it is damaged."""
    try:
        return dict(json.loads(file.read_bytes())) if file.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); name another folder") from None


def _publish(output: Path, samples: Mapping[str, list[dict[str, Any]]], content: Mapping[str, Any]) -> None:
    """Write the samples of each part of a task, and all results so far."""
    (output / "samples").mkdir(exist_ok=True)
    for part, rows in samples.items():
        lines = "".join(json.dumps(row, default=plain) + "\n" for row in rows)
        publish_file(output / "samples" / f"{part}.jsonl", lines.encode())
    publish_file(output / "results.json", json.dumps(content, indent=1, default=plain).encode())


def _response(responses: Responses, arguments: tuple[Any, ...]) -> dict[str, Any]:
    for kind in ("loglikelihood", "generate_until", "loglikelihood_rolling"):
        if (found := responses.find(key_of(kind, arguments))) is not None:
            return found
    raise AssertionError(f"nothing is known of {arguments}")


def plain(value: Any) -> Any:
    """What JSON takes, of numbers of numpy and of anything else."""
    item = getattr(value, "item", None)  # as numbers of numpy and torch have, which this layer does not import
    return item() if callable(item) else str(value)
