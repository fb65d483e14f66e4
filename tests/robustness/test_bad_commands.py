"""Any command line: done, or refused with one message, with nothing half-written and nothing in the place of a file."""

import json
import os
from pathlib import Path

from bad_values import numbers_of_cases
from console import llada
from hypothesis import given, settings
from hypothesis import strategies as st

VALUES = ["nan", "inf", "-1", "0", "2", "1e300", "", "x", "10000000000", "cpu", "cuda:99", "meta"]
PLACES = ["file", "folder", "pipe", "link", "loop", "dangling", "new", "nowhere/new", "", ".", "x" * 300, "model"]
OPTIONS = {
    "generate": ["--seed", "--delay", "--alternatives", "--device", "--sampler", "--trace"],
    "infill": ["--gap", "--seed", "--delay", "--alternatives", "--device", "--sampler", "--trace"],
    "tune": ["--steps", "--thresholds", "--block-lengths", "--caches", "--rows", "--tolerance", "--batch-size",
             "--seed", "--device", "--results", "--output", "--sampler", "--check"],
    "compare": ["--rows", "--length", "--samples", "--precision", "--seed", "--batch-size", "--device", "--output"],
    "prepare": ["--heldout", "--sample-bytes", "--max-bytes", "--shard-tokens", "--count", "--families", "--seed"],
    "prepare text": ["--vocab-size", "--heldout", "--sample-bytes", "--max-bytes", "--shard-tokens",
                     "--longest-document", "--text-field", "--separator", "--bad-rows"],
    "export": ["--sampler", "--name", "--license", "--max-shard-size", "--adapter"],
}  # fmt: skip
FIXED = {
    "generate": ["model", "a", "--set", "gen_length=2", "--set", "steps=1"],
    "infill": ["model", "a ___", "--set", "steps=1"],
    "tune": ["model", "talks.jsonl", "--set", "gen_length=2", "--steps", "1", "--caches", "none"],
    "compare": ["model", "model", "talks.jsonl", "--samples", "2"],
    "prepare": ["instructions"],
    "prepare text": ["texts.txt"],
    "export": ["model"],
}
PATHS = ("--trace", "--results", "--output", "--adapter", "--sampler")


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with some options; where it writes a folder, any place for it."""
    name = draw(st.sampled_from(sorted(FIXED)))
    line = [name.split()[0], *FIXED[name]]
    if name in ("prepare", "prepare text", "export"):
        line.append(draw(st.sampled_from(PLACES)))
        line += {"prepare": ["--count", "1"], "prepare text": ["--vocab-size", "262"], "export": []}[name]
    for option in draw(st.lists(st.sampled_from(OPTIONS[name]), max_size=2, unique=True)):
        line += [option, draw(st.sampled_from(PLACES if option in PATHS and draw(st.integers(0, 5)) else VALUES))]
    return line


def present(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below the folder: its kind, and what is in files and links."""
    found = {}
    for path in folder.rglob("*"):
        content = path.readlink().name.encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


@numbers_of_cases(5, 2500)
def test_commands_are_done_or_refused_and_replace_nothing(cases, served, tmp_path_factory, monkeypatch, capsys):
    @settings(max_examples=cases)
    @given(lines())
    def check(line: list[str]) -> None:
        folder = tmp_path_factory.mktemp("line")
        monkeypatch.chdir(folder)
        Path("model").symlink_to(served)
        Path("file").write_text("mine")
        Path("folder").mkdir()
        Path("folder", "inside").write_text("mine, too")
        os.mkfifo("pipe")
        Path("link").symlink_to("file")
        Path("loop").symlink_to("loop")
        Path("dangling").symlink_to("gone")
        talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
        Path("talks.jsonl").write_text((json.dumps(talk) + "\n") * 4)
        Path("texts.txt").write_text("".join(f"a text of some words {number}\n\n" for number in range(40)))
        before = present(folder)
        try:
            llada(monkeypatch, *line)
            code = 0
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr().err
        assert code in (0, 2, 3), said
        assert "Traceback" not in said
        after = present(folder)
        written = {line[line.index(option) + 1] for option in ("--trace", "--results") if option in line}
        for name in before.keys() - (written | {"file"} if written & {"file", "link"} else written):
            assert after[name] == before[name], name
        for name in written & before.keys():
            assert after[name][0] == before[name][0], name
        assert not [name for name in after if name.endswith((".partial", ".old"))]
        if code:
            asked = {line[line.index(each) + 1] for each in PATHS if each in line}
            assert after.keys() <= before.keys() | asked | {"nowhere"}  # an empty folder above the output may stay

    check()
