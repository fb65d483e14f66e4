"""`llada generate --watch` at a terminal: what is painted fits it, and goes when the answer is there."""

import os
import re

import pytest
from rich.cells import cell_len
from terminals import Terminal


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a terminal of POSIX")
def test_canvas_follows_the_width_of_the_terminal_and_leaves_the_answer_alone(tuned, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "LINES"):  # which pytest's processes have, and which are believed
        monkeypatch.delenv(name, raising=False)
    sampler = ["--set", "gen_length=24", "--set", "forbid_eos=true"]
    there = Terminal("generate", tuned / "model", "Add 3 and 4.", *sampler, "--watch", "--delay", "0.15")
    wide = plain(there.until("step 3,"))
    there.resize(24, 30)
    there.until("step 12,")  # what is read here was painted a while ago on a busy machine
    narrow = plain(there.until("step 24,"))
    assert max(map(cell_len, wide)) > 60
    assert max(map(cell_len, narrow)) <= 30
    assert sum("masks left" in line for line in narrow) > 9
    *_, last = there.until("(24 forward passes)").split("\x1b[2K")  # after what is painted is erased
    assert "masks left" not in last
    assert there.end() == 0


def plain(painted: str) -> list[str]:
    """The lines without their colours."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", painted))
