"""What a model has answered so far, kept by the content of the requests, so that an evaluation goes on after a kill.

Each process appends to a JSON-lines file of its own and reads those of all. The first line says what was asked of
what, the subject; a line that a kill cut off is dropped.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

Response = dict[str, Any]  # what JSON can hold


class Responses:
    """Responses under the keys of `key_of`; folder None: in memory alone.

    Raises ValueError where the folder's files are of another subject or damaged.
    """

    def __init__(self, folder: Path | None = None, subject: Mapping[str, Any] | None = None, *, rank: int = 0):
        self._known: dict[str, Response] = {}
        self._file: TextIO | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        header = {"subject": json.loads(json.dumps(subject))}
        for path in sorted(folder.glob("rank*.jsonl")):
            self._known |= _read(path, header)
        own = folder / f"rank{rank}.jsonl"
        whole = own.read_bytes().rpartition(b"\n") if own.exists() else (b"", b"", b"")
        self._file = own.open("a", encoding="utf-8")
        self._file.truncate(len(whole[0]) + len(whole[1]))
        if not whole[0]:
            self._write(header)

    def find(self, key: str) -> Response | None:
        return self._known.get(key)

    def add(self, key: str, response: Response) -> None:
        """Keep it, also after a kill or a power cut from now on."""
        self._known[key] = response
        if self._file is not None:
            self._write({"key": key, "response": response})

    def known(self) -> dict[str, Response]:
        return dict(self._known)

    def update(self, others: Mapping[str, Response]) -> None:
        """Know what other processes keep."""
        self._known |= others

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def key_of(kind: str, arguments: tuple[Any, ...], repeat: int = 0) -> str:
    """Of a request: its kind, what it asks, and the how manieth draw it is."""
    return hashlib.sha256(json.dumps([kind, arguments, repeat], sort_keys=True).encode()).hexdigest()


def different(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In what two subjects differ, for a message; empty where they do not."""
    names = [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]
    return "; ".join(f"{name} {known.get(name)!r}, not {wanted.get(name)!r}" for name in names)


def _read(path: Path, header: Mapping[str, Any]) -> dict[str, Response]:
    found = {}
    for number, line in enumerate(path.read_bytes().rpartition(b"\n")[0].splitlines(), start=1):
        try:
            content = json.loads(line)
            if number > 1:
                found[content["key"]] = content["response"]
                continue
            subject = dict(content["subject"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}, is damaged ({error!r}); remove the file to ask again") from None
        if told := different(subject, header["subject"]):
            raise ValueError(
                f"{path} holds responses under other settings: {told}. Set these as there, or name another folder"
            )
    return found
