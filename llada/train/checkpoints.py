"""Checkpoint folders: each is whole or does not count, whatever kills the process that writes it.

A run keeps them as `checkpoints/step-00000400`. One is filled under a temporary name, described by a manifest with the
size and SHA-256 of every file, synced, renamed, and only then are older ones removed: at every instant after the first
save there is at least one that a run can go on from. What the files mean is `llada.train.state`.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from llada.durable import followed, partial_folder, partial_path, publish_folder, write_durably

MANIFEST = "manifest.json"
_VERSION = 1
_NAME = re.compile(r"step-(\d+)")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what is wrong with it."""


class Skipped(NamedTuple):
    """A checkpoint that was passed over."""

    path: Path
    reason: str


def checkpoint_path(root: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates lies."""
    return root / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The number of updates behind a checkpoint, from its name."""
    return int(checkpoint.name.removeprefix("step-"))


def begin(root: Path, step: int) -> Path:
    """An empty folder to write the checkpoint into; `commit` makes it one."""
    return partial_folder(checkpoint_path(root, step))


def commit(filled: Path, root: Path, step: int, keep: int) -> Path:
    """Describe, sync and name a filled folder, then remove all but the newest `keep` checkpoints."""
    files = {str(p.relative_to(filled)): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in _files(filled)}
    manifest = {"version": _VERSION, "step": step, "files": files}
    write_durably(filled / MANIFEST, json.dumps(manifest, indent=1).encode())
    target = checkpoint_path(root, step)
    publish_folder(filled, target)
    for old in list_checkpoints(root)[keep:]:
        discard(old)
    return target


def discard(checkpoint: Path) -> None:
    """Remove a folder under a name that does not count, so that a kill leaves no half of a checkpoint behind."""
    doomed = partial_path(checkpoint)
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def list_checkpoints(root: Path) -> list[Path]:
    """All checkpoints by their names, newest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if _NAME.fullmatch(path.name)), key=step_of, reverse=True)


def newest_valid(root: Path) -> tuple[Path | None, list[Skipped]]:
    """The newest checkpoint whose every file is as it was written, and the newer ones that are not, with the reason."""
    skipped = []
    for path in list_checkpoints(root):
        try:
            verify(path)
        except CheckpointError as error:
            skipped.append(Skipped(path, str(error)))
        else:
            return path, skipped
    return None, skipped


def verify(checkpoint: Path) -> None:
    """Raise CheckpointError where a file of the checkpoint is missing, of another size, or differs in a bit."""
    file = checkpoint / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["version"] != _VERSION:
            raise CheckpointError(f"{file} has format version {manifest['version']}, not {_VERSION}")
        expected = [(name, entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()]
        step = manifest["step"]
    except FileNotFoundError:
        raise CheckpointError(f"it has no {MANIFEST}: its save did not end") from None
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{MANIFEST} cannot be read: {error!r}") from None
    if step != step_of(checkpoint):
        raise CheckpointError(f"its manifest speaks of step {step}: the folder was renamed")
    for name, size, digest in expected:
        try:
            _check_file(checkpoint, name, size, digest)
        except OSError as error:
            raise CheckpointError(f"{name} cannot be read: {error}") from None


def set_aside(checkpoint: Path) -> None:
    """Rename a checkpoint that cannot be used to `*.invalid`, where it no longer counts and can be looked at."""
    aside = checkpoint.with_name(checkpoint.name + ".invalid")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)


def _check_file(checkpoint: Path, name: str, size: int, digest: str) -> None:
    path = checkpoint / name
    if not followed(path).is_relative_to(followed(checkpoint)):
        raise CheckpointError(f"its manifest names {name!r}, which lies outside of it")
    if not path.is_file():
        raise CheckpointError(f"{name} is missing")
    if path.stat().st_size != size:
        raise CheckpointError(f"{name} has {path.stat().st_size} bytes instead of {size}")
    if _sha256(path) != digest:
        raise CheckpointError(f"{name} is damaged: its SHA-256 differs from the manifest's")


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
