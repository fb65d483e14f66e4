"""Tasks of lm-evaluation-harness, one after another, and the folder of their results.

The folder holds `subject.json` (what is evaluated), `responses/TASK` (all answers so far: an evaluation that was killed
goes on with the next), `samples/TASK.jsonl` and `results.json`, written anew after each task.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from jinja2 import UndefinedError
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from llada.durable import publish_file
from llada.eval.arguments import Settings
from llada.eval.crew import Crew
from llada.eval.harness import LLaDAHarness
from llada.eval.identity import identity
from llada.eval.metrics import description
from llada.eval.presets import Preset, TaskSettings
from llada.eval.processes import Processes
from llada.eval.responses import Responses, different, key_of
from llada.model.modeling import LLaDAForMaskedLM


def manager_of(names: Iterable[str], include_path: Path | None) -> TaskManager:
    """What knows the tasks: the folder alone where it has all of them, as to index those of lm_eval takes a while."""
    if include_path is None:
        return TaskManager()
    if not include_path.is_dir():
        raise FileNotFoundError(f"{include_path} is no folder of task files")
    own = TaskManager(include_path=str(include_path), include_defaults=False)
    return own if {*names} <= {*own.all_tasks} else TaskManager(include_path=str(include_path))


def check_tasks(preset: Preset, manager: TaskManager, *, allow_code: bool) -> None:
    """Raise ValueError for unknown tasks, for those that run code unless it is allowed, and for shots they refuse."""
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
        _claim(output, subject, processes)
    results: dict[str, Any] = {}
    for name, how in preset.tasks.items():
        folder = None if output is None else output / "responses" / name
        asked = json.loads(how.model_dump_json())
        responses = Responses(folder, subject | {"task": name, "asked": asked}, rank=processes.rank)
        crew = Crew(model, tokenizer, responses, processes)
        if processes.rank > 0:
            crew.serve()
            continue
        settings = Settings(sampler=how.sampler, samples=how.samples, seed=seed, batch_size=batch_size)
        lm = LLaDAHarness(model, tokenizer, settings, crew, Processes(str(processes.device), alone=True))
        with crew.leading():
            found = _asked(lm, name, how, preset, manager, limit=limit, allow_code=allow_code)
        samples: dict[str, list[dict[str, Any]]] = found.pop("samples")
        kept = {part: found[part] for part in ("results", "groups", "n-shot", "versions", "n-samples") if part in found}
        results[name] = {"asked": asked, **kept, "estimates": {k: about(v, responses) for k, v in samples.items()}}
        if output is not None:
            told = {"subject": subject, "batch_size": batch_size, "processes": processes.count, "command": command}
            for part, rows in samples.items():
                lines = "".join(json.dumps(row, default=_plain) + "\n" for row in rows)
                publish_file(output / "samples" / f"{part}.jsonl", lines.encode())
            publish_file(
                output / "results.json", json.dumps(told | {"tasks": results}, indent=1, default=_plain).encode()
            )
    return results


def about(samples: Sequence[dict[str, Any]], responses: Responses) -> dict[str, float]:
    """How sure the likelihoods of a task are and what its texts are like; each sample gets its `stderr`, in nats."""
    errors, texts, ended, dropped, near, several = [], [], [], 0, 0, 0
    for sample in samples:
        known = [_response(responses, arguments) for arguments in sample["arguments"]]
        dropped += any(response.get("dropped") for response in known)
        if "stderr" in known[0]:
            sample["stderr"] = [response["stderr"] for response in known]
            errors += sample["stderr"]
            several += len(known) > 1
            best = sorted(known, key=lambda response: -response["value"])[:2]
            gap, error = best[0]["value"] - best[-1]["value"], sum(each["stderr"] ** 2 for each in best) ** 0.5
            near += len(best) == 2 and gap < 2 * error
        if "ids" in known[0]:
            texts.append(known[0]["ids"])
            ended.append(known[0]["ended"])
    found: dict[str, float] = {"contexts_cut": dropped}
    if errors:
        found |= {"stderr_mean": sum(errors) / len(errors), "stderr_max": max(errors)}
    if several:  # choices that are closer to each other than two standard errors of their difference
        found["undecided"] = near / several
    return found | (description(texts, ended) if texts else {})


def _asked(
    lm: LLaDAHarness, name: str, how: TaskSettings, preset: Preset, manager: TaskManager, **options: Any
) -> dict[str, Any]:
    with _columns(name):
        found = cast(Callable[..., Any], simple_evaluate)(  # whose decorator hides its parameters
            lm,
            tasks=[name],
            num_fewshot=how.shots,
            limit=options["limit"],
            apply_chat_template=preset.chat,
            fewshot_as_multiturn=preset.chat,
            task_manager=manager,
            bootstrap_iters=1000,  # 100000 is lm_eval's own, which takes longer than a small evaluation
            confirm_run_unsafe_code=options["allow_code"],
        )
    return cast(dict[str, Any], found)


@contextmanager
def _columns(name: str) -> Iterator[None]:
    try:
        yield
    except (UndefinedError, KeyError) as error:
        raise ValueError(f"task {name}: a column that it names is not in its data: {error}") from error


def _claim(output: Path, subject: Mapping[str, Any], processes: Processes) -> None:
    """Make the folder that of this subject, or raise ValueError where it is another one's."""
    file = output / "subject.json"
    if processes.rank == 0:
        (output / "samples").mkdir(parents=True, exist_ok=True)
        if not file.exists():
            publish_file(file, json.dumps(subject).encode())
    processes.barrier()
    try:
        told = different(json.loads(file.read_bytes()), subject)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}); name another folder") from None
    if told:
        raise ValueError(
            f"{output} holds results of another subject: {told}. Name another folder, or set these as there"
        )


def _response(responses: Responses, arguments: tuple[Any, ...]) -> dict[str, Any]:
    for kind in ("loglikelihood", "generate_until", "loglikelihood_rolling"):
        if (found := responses.find(key_of(kind, arguments))) is not None:
            return found
    raise AssertionError(f"nothing is known of {arguments}")


def _plain(value: Any) -> Any:
    """What JSON takes, of numbers of numpy and of anything else."""
    return value.item() if callable(getattr(value, "item", None)) else str(value)
