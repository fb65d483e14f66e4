"""Running training in processes of their own, forked so that nothing is imported again, and killing them."""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm


def start(action: Callable[[], object], output: Path, rank: int = 0, processes: int = 1, port: int = 0) -> int:
    """Fork a process that does `action` as one of several; its id. What it prints is appended to a file.

    It exits with 0, with the code of a SystemExit, or with 1 after an exception.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        tqdm.set_lock(threading.RLock())  # its own one is shared by forks, and a killed one may hold it for ever
        _join(rank, processes, port)
        action()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # not even pytest's own clean-up runs in the copy


def _join(rank: int, processes: int, port: int) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    GradientState._reset_state()
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def start_all(action: Callable[[], object], output: Path, processes: int) -> list[int]:
    """Fork several processes that train together; their ids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(action, output, rank, processes, port) for rank in range(processes)]


def finish(child: int, timeout: float = 120.0) -> int:
    """The exit code of a process, negative for the signal that killed it; it is killed after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"process {child} did not end in {timeout} seconds")


def run(action: Callable[[], object], output: Path, processes: int = 1) -> None:
    """Do `action` in so many processes; AssertionError with what they printed where one fails."""
    codes = [finish(child) for child in start_all(action, output, processes)]
    assert codes == [0] * processes, output.read_text()[-3000:]


def wait_until(true: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
