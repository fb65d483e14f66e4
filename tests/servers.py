"""`llada serve` and `llada ui` in a process of their own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LLADA = Path(sys.executable).with_name("llada")


@contextmanager
def serving(model: Path, *options: str, command: Sequence[str] = ("serve", "--name", "small")) -> Iterator[str]:
    """The address of a server on a free port; it is ended with a signal, and must end without an error."""
    line = [str(LLADA), *command, str(model), "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        told: list[str] = []
        for text in server.stderr:
            told.append(text)
            if found := re.search(r"running on (http://\S+)", text):
                break
        else:
            raise AssertionError("".join(told))
        try:
            yield found[1]
        finally:
            server.send_signal(signal.SIGINT)
            rest = server.stderr.read()
        assert server.wait(30) == 0, rest
        assert "Traceback" not in rest, rest
