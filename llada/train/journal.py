"""The log of a run, one JSON object a line: written as training goes, cut back to a checkpoint when it resumes."""

import json
import math
import os
from pathlib import Path
from typing import Any


class Journal:
    """`log.jsonl`, open for appending after its first `size` bytes; what follows them is cut off.

    Raises ValueError where the file is shorter: records that belong to the checkpoint are lost.
    """

    def __init__(self, path: Path, size: int = 0):
        self._file = path.open("ab")
        found = self._file.tell()
        if found < size:
            self._file.close()
            raise ValueError(
                f"{path} has {found} bytes, but {size} when the checkpoint was saved: copy the whole file back, or "
                "start a new run"
            )
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, record: dict[str, Any]) -> None:
        """Write a record; numbers that JSON cannot hold become null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(finite).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Have the disk keep all records; their size in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def read_log(output: str | Path) -> list[dict[str, Any]]:
    """The records of a run's log.jsonl, one per step; a last line that a kill cut short does not count."""
    content = (Path(output) / "log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]
