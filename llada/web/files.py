"""The files of sessions of the page: a folder for each, in one folder."""

import hashlib
import secrets
import shutil
from pathlib import Path


def new_folder(folder: Path, session: str | None) -> Path:
    """An empty folder for files of a session, in place of the one before it."""
    forget(folder, session)
    made = _of(folder, session) / secrets.token_hex(8)
    made.mkdir(parents=True)
    return made


def forget(folder: Path, session: str | None) -> None:
    """Remove the files of a session, if it has any."""
    shutil.rmtree(_of(folder, session), ignore_errors=True)


def _of(folder: Path, session: str | None) -> Path:
    """The folder of a session. A client may call it anything, so what it is called is no part of a path."""
    return folder / hashlib.sha256(str(session).encode(errors="surrogatepass")).hexdigest()
