"""Responses are kept through a kill, and belong to one subject."""

import json

import pytest

from llada.eval.responses import Responses, key_of

SUBJECT = {"model": "a", "seed": 0}


def test_responses_are_found_again_by_every_process(tmp_path):
    for rank in range(2):
        Responses(tmp_path, SUBJECT, rank=rank).add(f"key{rank}", {"value": rank / 3})
    again = Responses(tmp_path, SUBJECT, rank=1)
    assert again.known() == {"key0": {"value": 0.0}, "key1": {"value": 1 / 3}}
    assert again.find("key2") is None


@pytest.mark.parametrize("lost", range(1, 60, 7))
def test_a_line_that_a_kill_cut_off_is_asked_again(tmp_path, lost):
    for key in ("one", "two"):
        Responses(tmp_path, SUBJECT).add(key, {"value": 1})
    file = tmp_path / "rank0.jsonl"
    last = file.read_bytes().splitlines(keepends=True)[-1]
    file.write_bytes(file.read_bytes()[: -min(lost, len(last))])
    Responses(tmp_path, SUBJECT).add("three", {"value": 3})
    assert Responses(tmp_path, SUBJECT).known() == {"one": {"value": 1}, "three": {"value": 3}}
    assert all(json.loads(line) for line in file.read_bytes().splitlines())


def test_a_file_that_was_killed_in_its_first_line_begins_anew(tmp_path):
    (tmp_path / "rank0.jsonl").write_text('{"subj')
    Responses(tmp_path, SUBJECT).add("one", {"value": 1})
    assert Responses(tmp_path, SUBJECT).known() == {"one": {"value": 1}}


def test_another_subject_and_damage_are_refused(tmp_path):
    Responses(tmp_path, SUBJECT).add("one", {"value": 1})
    with pytest.raises(
        ValueError, match=r"rank0.jsonl holds responses under other settings: seed 0, not 1\. Set these"
    ):
        Responses(tmp_path, SUBJECT | {"seed": 1})
    file = tmp_path / "rank0.jsonl"
    file.write_text(file.read_text() + "no json\n")
    with pytest.raises(ValueError, match=r"rank0.jsonl, line 3, is damaged"):
        Responses(tmp_path, SUBJECT)


def test_keys_tell_requests_apart():
    keys = [
        key_of("a", ("x",)),
        key_of("b", ("x",)),
        key_of("a", ("y",)),
        key_of("a", ("x",), 1),
        key_of("a", ("x", {})),
    ]
    assert len({*keys}) == len(keys)
    assert key_of("a", ({"p": 1, "q": 2},)) == key_of("a", ({"q": 2, "p": 1},))
