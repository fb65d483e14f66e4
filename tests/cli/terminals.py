"""The console script at a terminal, as a person meets it."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

from llada.cli import main


class Terminal:
    """The console script in a child of this process, at a terminal of its own."""

    def __init__(self, *arguments: object):
        self._child, self._end = pty.fork()
        self.seen = ""
        if self._child == 0:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
                # not those of pytest
                sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
                sys.argv = ["llada", *map(str, arguments)]
                main()
            finally:
                sys.stdout.flush()
                os._exit(0)
        self.resize(24, 80)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, text: str) -> str:
        """What is written up to this text; AssertionError where it does not come."""
        limit = time.monotonic() + 60
        while text not in self.seen:
            assert select.select([self._end], [], [], max(0.0, limit - time.monotonic()))[0], self.seen
            try:
                new = os.read(self._end, 4096)
            except OSError:  # as Linux says the end
                new = b""
            assert new, f"{text!r} does not come: {self.seen!r}"
            self.seen += new.decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def end(self) -> int:
        """The exit status."""
        return os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
