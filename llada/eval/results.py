"""The file of a sweep: what was measured, and of what. It is written anew after every sampler, so a sweep goes on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llada.durable import publish_file
from llada.eval.identity import identity
from llada.eval.measure import Measurement
from llada.eval.responses import different
from llada.eval.task import Task
from llada.sampling.config import SamplerConfig

_COLUMNS = {"right": bool, "forward_passes": int, "query_tokens": int, "tokens": int}


class Results:
    """Measurements under what they are measurements of, `subject`, in a JSON file; path None: in memory alone.

    Raises ValueError where the file is none of ours or damaged, and where it has another subject.
    """

    def __init__(self, path: Path | None, subject: Mapping[str, Any]):
        self._path, self._subject = path, dict(subject)
        self._measurements = {} if path is None or not path.exists() else self._read(path)

    def find(self, sampler: SamplerConfig) -> Measurement | None:
        return self._measurements.get(_key(sampler))

    def add(self, measurement: Measurement) -> None:
        """Keep it, in the file, too."""
        self._measurements[_key(measurement.sampler)] = measurement
        if self._path is not None:
            stored = [
                asdict(one) | {"sampler": one.sampler.model_dump(exclude_unset=True)}
                for one in self._measurements.values()
            ]
            publish_file(self._path, json.dumps({"subject": self._subject, "measurements": stored}).encode())

    def _read(self, path: Path) -> dict[str, Measurement]:
        try:
            stored = json.loads(path.read_bytes())
            subject, measurements = dict(stored["subject"]), [_measurement(one) for one in stored["measurements"]]
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} holds no results of `llada tune` ({type(error).__name__}: {error}); name another file"
            ) from None
        if told := different({name: subject.get(name) for name in self._subject}, self._subject):
            raise ValueError(
                f"{path} was measured with other settings: {told}. Name another file, or set these as there"
            )
        if any(len(one.right) != self._subject["rows"] for one in measurements):
            raise ValueError(f"{path} is damaged: not every measurement has {self._subject['rows']} rows")
        return {_key(one.sampler): one for one in measurements}


def subject_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, *, batch_size: int, seed: int
) -> dict[str, Any]:
    """Everything but the sampler that answers and times depend on, as far as it can be told."""
    return identity(model, tokenizer) | {
        "task": hashlib.sha256(json.dumps([task.conversations, task.expected]).encode()).hexdigest(),
        "check": task.check,
        "rows": len(task.expected),
        "seed": seed,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
    }


def _key(sampler: SamplerConfig) -> str:
    return json.dumps(sampler.model_dump(), sort_keys=True)


def _measurement(stored: Mapping[str, Any]) -> Measurement:
    columns = {name: stored[name] for name in _COLUMNS}
    for name, kind in _COLUMNS.items():
        if not isinstance(columns[name], list) or any(type(value) is not kind for value in columns[name]):
            raise ValueError(f"{name} is no list of {kind.__name__}")
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError("the columns have unequal lengths")
    if not isinstance(stored["seconds"], float) or not stored["seconds"] > 0:
        raise ValueError(f"seconds={stored['seconds']!r} is no time")
    return Measurement(SamplerConfig(**stored["sampler"]), seconds=stored["seconds"], **columns)
