"""Traces as files: saved, loaded and refused."""

import itertools
import json

import pytest
from traced import MASK, RUNS, recorded, run

from llada.sampling.trace import Trace


@pytest.mark.parametrize("name", RUNS)
def test_a_saved_trace_is_loaded_as_it_was(name, tmp_path):
    trace = run(name)[1]
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]


def test_traces_of_other_runs_are_not_equal():
    traces = [run(name)[1] for name in RUNS]
    assert all((a == b) == (a is b) for a, b in itertools.product(traces, traces))
    assert traces[0] != "a trace"


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path, monkeypatch):
    trace = recorded()[1]
    trace.save(tmp_path / "trace.json")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("llada.durable.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        run("blocks")[1].save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json"]


def changed(**values):
    return lambda stored: stored | values


def first(name: str, value):
    return lambda stored: stored | {name: [value, *stored[name][1:]]}


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda stored: [], "holds a list, not an object"),
        (changed(version=1), "version 1 of a trace is unknown; known: 2"),
        (lambda stored: {k: v for k, v in stored.items() if k != "version"}, "version None of a trace is unknown"),
        (lambda stored: {k: v for k, v in stored.items() if k != "kind"}, r"lacks \['kind'\] and has unknown \[\]"),
        (changed(colour=3), r"has unknown \['colour'\]"),
        (changed(mask_token_id="5"), "mask_token_id is '5', not a whole number"),
        (changed(mask_token_id=2**70), "mask_token_id is 1180591620717411303424, not a whole number >= 0"),
        (changed(shape=[-1, 0]), r"shape is \[-1, 0\], not two numbers >= 0"),
        (changed(shape=[2**70, 1]), "shape is not a table of whole numbers"),
        (first("canvas", [-1] * 12), "canvas has a token below 0"),
        (first("token", -1), "token has a token below 0"),
        (first("blocks", [0, 13]), "a block does not begin and end within the 12 positions"),
        (first("blocks", [3, 2]), "a block does not begin and end within the 12 positions"),
        (changed(probability=[[1.0]] * 34), r"probability has size \(34, 1\); it must be one number per change"),
        (first("probability", 10**400), "alternative_probability is not a table of numbers"),
        (first("probability", None), "alternative_probability is not a table of numbers"),
        (first("probability", float("nan")), "probability has a value that is not finite"),
        (
            changed(alternatives=[[1]] * 34, alternative_probability=[[float("inf")]] * 34),
            "alternative_probability has a value that is not finite",
        ),
        (changed(shape=[4]), r"shape has size \(1,\), not \(2,\)"),
        (changed(shape=[3, 12]), r"canvas has size \(4, 12\), not \(3, 12\)"),
        (changed(canvas=[[1, 2], [3]]), "canvas is not a table of whole numbers"),
        (changed(canvas=None), "canvas is not a table of whole numbers"),
        (
            lambda stored: stored | {"row": stored["row"][1:]},
            "columns have unequal lengths: .*'row': 33, 'position': 34",
        ),
        (changed(step=3), r"step has size \(\), not \(0,\)"),
        (changed(index="many"), "index is not a table of whole numbers"),
        (first("position", 12), "position 12 lies outside of 0..11"),
        (first("position", -1), "position -1 lies outside of 0..11"),
        (first("row", 4), "row 4 lies outside of 0..3"),
        (first("step", 9), "step 9 lies outside of 0..8"),
        (first("kind", 4), "kind 4 lies outside of 0..3"),
        (first("step", 1), "not sorted by step, row and position"),
        (first("token", 1.5), "token is not a table of whole numbers"),
        (changed(token=[True] * 34), "token is not a table of whole numbers"),
        (first("token", 2**70), "token is not a table of whole numbers"),
        (first("token", MASK), r"changes to \[MASK\], 5, are not those of kind 1"),
        (first("probability", "high"), "alternative_probability is not a table of numbers"),
        (changed(probability=1), "alternative_probability is not a table of numbers"),
        (lambda stored: stored | {"blocks": stored["blocks"][1:]}, r"blocks has size \(8, 2\), not \(9, 2\)"),
        (changed(active=[[2, 1, 1, 1]] * 9), "active has other values than 0 and 1"),
        (changed(alternatives=[[1]] * 34), "alternative_probability is not a table of numbers"),
        (changed(alternatives=[[1], [2, 3]]), "alternatives is not a table of whole numbers"),
        (changed(alternative_probability=[["high"]]), "alternative_probability is not a table of numbers"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_problem(damage, problem, tmp_path):
    file = tmp_path / "run.json"
    recorded()[1].save(file)
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=f"run.json': .*({problem})"):
        Trace.load(file)


def test_a_file_whose_lists_are_too_deep_is_refused(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json' is not valid JSON"):
        Trace.load(tmp_path / "deep.json")


def test_a_file_that_is_missing_or_cut_is_refused_with_its_name(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json' cannot be read: No such file"):
        Trace.load(tmp_path / "none.json")
    file = tmp_path / "cut.json"
    recorded()[1].save(file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"cut\.json' is not valid JSON"):
        Trace.load(file)
    file.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ValueError, match=r"cut\.json' is not valid JSON"):
        Trace.load(file)


def test_a_trace_whose_steps_do_not_fit_is_refused():
    trace = recorded()[1]
    with pytest.raises(ValueError, match=r"9 steps of 4 rows need blocks \(9, 2\) and active \(9, 4\), not"):
        Trace(**vars(trace) | {"active": trace.active[1:]})
