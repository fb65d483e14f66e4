"""Files and folders that are whole or absent, even after a power cut: written beside their name, synced, renamed."""

import os
import shutil
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and have the disk keep it before this returns; a reader may see a part of it until then."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def partial_path(target: Path) -> Path:
    """The name that a file or folder has until it is whole."""
    return target.with_name(target.name + ".partial")


def publish_file(path: Path, content: bytes) -> None:
    """Write a file beside its name and rename it, durably: the name has the old content or the new, never a part.

    A symbolic link stays one: the file that it names is written. Raises OSError as `check_file`.
    """
    check_file(path)
    path = followed(path)
    partial = partial_path(path)
    try:
        write_durably(partial, content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def check_file(path: Path) -> None:
    """Raise OSError where a file could not be published: there is no folder for it, or something else has its name."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; make it first")
    if os.path.lexists(path) and not path.is_file():
        raise FileExistsError(f"{path} is a folder, a device, a pipe or a link to nothing; name a file")


def check_new_file(path: Path) -> None:
    """Raise OSError as `check_file`, and where there is a file already."""
    check_file(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another name or remove it")


def is_taken(folder: Path) -> bool:
    """Whether a folder to be written would replace something: content, a file, a link to nothing."""
    return os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir()))


def check_folder(folder: Path) -> None:
    """Raise FileExistsError where a folder to be written would replace something."""
    if is_taken(folder):
        raise FileExistsError(f"{folder} exists and is not empty; choose another folder or remove it")


def check_is_folder(path: Path) -> None:
    """Raise FileExistsError where something has the name that is no folder, for what goes on with what is in one."""
    if os.path.lexists(path) and not path.is_dir():
        raise FileExistsError(f"{path} is a file or a link to nothing; name a folder")


def followed(path: Path) -> Path:
    """The absolute path without links; one that leads to itself stays, which `Path.resolve` may raise for."""
    return Path(os.path.realpath(path))


def sync_folder(folder: Path) -> None:
    """Have the disk keep which names the folder holds."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have the disk keep everything below the folder."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def partial_folder(target: Path) -> Path:
    """An empty folder beside `target`, to be filled and given to `publish_folder`; leftovers of a kill are removed."""
    folder = partial_path(target)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def publish_folder(filled: Path, target: Path) -> None:
    """Give a filled folder its name, durably. What had the name before goes only when the new one is complete."""
    sync_tree(filled)
    if target.exists():
        old = target.with_name(target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        filled.rename(target)
        shutil.rmtree(old)
    else:
        filled.rename(target)
    sync_folder(target.parent)
