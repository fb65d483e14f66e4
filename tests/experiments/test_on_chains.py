"""The experiments on chains, in small: what they measure, and what their tables and figures say of it."""

from types import SimpleNamespace

import pytest
import torch
from lessons import LESSON
from rich.console import Console

from llada.config import ConfigError
from llada.experiments.chains import Lesson, conversations, questions
from llada.experiments.experiment import named, perform
from llada.experiments.order import of_answers, shown_answer
from llada.sampling.config import SamplerConfig
from llada.sampling.trace import Kind, Trace
from llada.sampling.trace_measures import ar_ness

SMALL = {"lesson": LESSON, "questions": 2}
SAMPLERS = {"low confidence": {}, "blocks": {"block_length": 4}}
SETTINGS = {
    "samplers": SMALL | {"gen_length": 8, "steps": [4, 8], "samplers": SAMPLERS},
    "steps": SMALL
    | {
        "gen_length": 8,
        "steps": [2, 4],
        "samplers": {"low confidence": {}},
        "thresholds": [0.0, 1.0],
        "threshold_sampler": {},
    },
    "length": SMALL | {"gen_lengths": [4, 8], "samplers": {"low confidence": {}}},
    "flood": SMALL | {"gen_lengths": [4, 8], "samplers": {"low confidence": {}}},
    "guidance": SMALL | {"gen_length": 4, "scales": [0.0, 1.0], "samplers": {"low confidence": {}}},
    "order": SMALL | {"gen_length": 8, "samplers": {"low confidence": {}, "reading": {"order": "left_to_right"}}},
    "efficiency": SMALL | {"gen_length": 4, "batch_size": 1, "samplers": {"fixed": [{"steps": 2}, {"steps": 4}]}},
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    return {
        name: perform(name, named(name).settings(**values), folder / name)["measured"]
        for name, values in SETTINGS.items()
    }, folder


def shown(name: str, measured: dict) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(named(name).table(measured))
    return capture.get()


@pytest.mark.parametrize("name", SETTINGS)
def test_table_finding_and_figure_are_made(name, records):
    measured, folder = records
    assert shown(name, measured[name]).count("│") > 4
    assert named(name).finding(measured[name]).endswith(".")
    assert "matplotlib" in (folder / name / "figure.svg").read_text()


def test_models_are_shared(records):
    _, folder = records
    assert len(list((folder / "models").iterdir())) == 2  # a mask predictor and an autoregressive model


def test_steps_are_counted_as_forward_passes(records):
    lines = records[0]["steps"]["lines"]
    assert [one["passes"] for one in lines["low confidence"]] == [2, 4]
    assert [one["passes"] for one in lines["threshold"]] == [1, 8]


def test_guidance_makes_two_passes(records):
    line = records[0]["guidance"]["lines"]["low confidence"]
    assert [one["passes"] for one in line] == [4, 8]


def test_length_is_that_of_the_canvas(records):
    line = records[0]["length"]["lines"]["low confidence"]
    assert [one["passes"] for one in line] == [4, 8]


def test_flood_is_of_a_model_that_has_learnt_no_longer_rows(records, tmp_path):
    lesson = LESSON | {"long_terms": [12], "long_share": 0.5}
    settings = named("flood").settings(**SETTINGS["flood"] | {"lesson": lesson})
    (tmp_path / "models").symlink_to(records[1] / "models")
    measured = perform("flood", settings, tmp_path / "flood")["measured"]
    assert measured == records[0]["flood"]
    asked = [messages[0]["content"] for messages in questions(Lesson(**LESSON), 2).conversations]
    beside = measured["prompts"][0] - min(map(len, asked))  # the layout around a prompt
    longest = max(len(prompt + reply) for prompt, reply in conversations(Lesson(**LESSON)))
    assert measured["longest_row"] == beside + longest + 2


def test_samplers_are_asked_at_every_number_of_steps(records):
    steps = records[0]["samplers"]["steps"]
    assert {number: [one["passes"] for one in found.values()] for number, found in steps.items()} == {
        "4": [4, 4],
        "8": [8, 8],
    }


def test_order_is_that_of_the_tokens_before_the_end():
    """Row 0 is revealed from right to left before its end, row 1 is empty; prompts have ends, too."""
    mask, end = 9, 8
    drafts = [[1, 2, 3, end, end], [end, 1, 1, 1, 1]]
    order = [[2, 1, 0, 3, 4], [0, 1, 2, 3, 4]]  # of positions, by step
    changes = [(step, row, order[row][step]) for step in range(5) for row in range(2)]
    trace = Trace(
        mask_token_id=mask,
        canvas=torch.tensor([[end, 1, *[mask] * 5]] * 2),
        index=torch.arange(5),
        blocks=torch.tensor([[2, 7]] * 5),
        active=torch.ones(5, 2, dtype=torch.bool),
        step=torch.tensor([step for step, _, _ in changes]),
        row=torch.tensor([row for _, row, _ in changes]),
        position=torch.tensor([2 + place for _, _, place in changes]),
        token=torch.tensor([drafts[row][place] for _, row, place in changes]),
        kind=torch.full((10,), int(Kind.REVEALED)),
        probability=torch.ones(10, dtype=torch.float64),
        alternatives=torch.zeros(10, 0, dtype=torch.long),
        alternative_probability=torch.zeros(10, 0, dtype=torch.float64),
    )
    assert ar_ness(trace, 1).global_at_k.tolist() == pytest.approx([3 / 5, 1.0])
    how = ar_ness(of_answers(trace, 2, torch.tensor([end])), 1)
    assert how.global_at_k[0] == pytest.approx(1 / 3)
    assert how.global_at_k[1].isnan()


def test_order_of_reading_is_that_of_reading(records):
    reading = records[0]["order"]["samplers"]["reading"]
    assert reading["steps"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert reading["leftmost"] == [1.0, 1.0]


def test_order_does_not_depend_on_the_batches_in_which_questions_are_asked(records, tmp_path):
    (tmp_path / "models").symlink_to(records[1] / "models")
    values = SETTINGS["order"] | {"questions": 3, "shown": 2, "samplers": {"a": {}, "random": {"order": "random"}}}
    together, apart = (
        perform("order", named("order").settings(**values, batch_size=size), tmp_path / str(size))["measured"]
        for size in (3, 2)
    )
    assert apart == together
    assert [len(one["leftmost"]) for one in apart["samplers"].values()] == [3, 3]


def test_step_of_a_token_is_that_which_fixed_it():
    """Position 1 is revealed, masked again and revealed; 2 is revealed and edited; 3 ends as a mask."""
    mask, kinds = 9, [Kind.REVEALED, Kind.REVEALED, Kind.REMASKED, Kind.EDITED, Kind.REVEALED, Kind.REVEALED]
    steps, positions, tokens = [0, 0, 1, 1, 2, 2], [1, 2, 1, 2, 1, 3], [4, 5, mask, 6, 7, 8]
    trace = Trace(
        mask_token_id=mask,
        canvas=torch.tensor([[3, mask, mask, mask, mask]]),
        index=torch.arange(4),
        blocks=torch.tensor([[1, 5]] * 4),
        active=torch.ones(4, 1, dtype=torch.bool),
        step=torch.tensor([*steps, 3]),
        row=torch.zeros(7, dtype=torch.long),
        position=torch.tensor([*positions, 3]),
        token=torch.tensor([*tokens, mask]),
        kind=torch.tensor([*map(int, kinds), int(Kind.REMASKED)]),
        probability=torch.ones(7, dtype=torch.float64),
        alternatives=torch.zeros(7, 0, dtype=torch.long),
        alternative_probability=torch.zeros(7, 0, dtype=torch.float64),
    )
    told = shown_answer(trace, 0, 1, SimpleNamespace(decode=lambda ids: str(ids[0])), torch.tensor([6]))
    assert told == {"tokens": ["7", "", "9", "9"], "steps": [3, 2, 0, 0]}


def test_efficiency_tells_of_the_autoregressive_model(records):
    lines = records[0]["efficiency"]["lines"]
    assert set(lines) == {"autoregressive, KV cache", "fixed"}
    assert lines["autoregressive, KV cache"][0]["passes"] <= 4
    compute = records[0]["efficiency"]["compute"]
    assert compute["masked"] >= compute["autoregressive"] > 0  # it reads the padding, too
    assert [one["varied"] for one in lines["fixed"]] == ["2", "4"]
    assert all(len(one["rates"]) == 3 for line in lines.values() for one in line)


def test_efficiency_takes_the_fastest_that_is_shown_to_lose_little():
    def one(varied, right, lost, rates):
        counts = {"right": right, "rows": 200, "lost": lost, "won": 0, "rates": rates, "varied": varied}
        return counts | {"passes": 4.0, "positions": 128.0, "tokens": 16.0}

    first = one("", 200, 0, [9.0, 10.0, 11.0])
    line = [one("0.5", 150, 50, [40.0, 41.0, 42.0]), one("0.9", 200, 0, [30.0, 20.0, 18.0])]
    measured = {"compute": {"masked": 3, "autoregressive": 2}, "batch_size": 1, "tolerance": 0.05}
    measured |= {"lines": {"autoregressive, KV cache": [first], "threshold": [*line, one("1", 200, 0, [5.0] * 3)]}}
    told = named("efficiency").finding(measured)
    assert "is threshold 0.9: 100.0% (98.1%–100.0%), with 20.0 (18.0–30.0) answers a second, 2.00 (1.64–3.33) " in told
    measured["lines"]["threshold"] = line[:1]
    assert "No sampler is shown to lose at most 5% of the answers" in named("efficiency").finding(measured)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("samplers", {"steps": [9]}, "steps=9 exceeds gen_length=8"),
        ("samplers", {"steps": []}, "at least 1"),
        ("samplers", {"samplers": {"a": {"block_length": 3}}}, "gen_length=8 cannot be cut into blocks"),
        ("samplers", {"samplers": {"a": {"ordr": "random"}}}, "did you mean 'order'"),
        ("samplers", {"samplers": {}}, "at least 1"),
        ("steps", {"steps": [9]}, "steps=9 exceeds gen_length=8"),
        ("length", {"gen_lengths": [0]}, "greater than or equal to 1"),
        ("guidance", {"scales": [-1.0]}, "greater than or equal to 0"),
        ("order", {"shown": 2}, "shown=2 must be below questions=2"),
        ("efficiency", {"samplers": {"a": [{"steps": 5}]}}, "steps=5 exceeds gen_length=4"),
        ("samplers", {"questions": 1}, "greater than or equal to 2"),
        ("samplers", {"samplers": {"a": {"steps": 4}}}, "steps=4 .* set by the experiment"),
        ("samplers", {"samplers": {"a": {"gen_length": 4}}}, "gen_length=4 .* set by the experiment"),
        ("order", {"samplers": {"a": {"gen_length": 4}}}, "gen_length=4 .* set by the experiment"),
        ("steps", {"samplers": {"a": {"steps": 4}}}, "steps=4 .* set by the experiment"),
        ("steps", {"threshold_sampler": {"threshold": 0.5}}, "threshold=0.5 .* set by the experiment"),
        ("steps", {"threshold_sampler": {"gen_length": 4}}, "gen_length=4 .* set by the experiment"),
        ("length", {"samplers": {"a": {"gen_length": 4}}}, "gen_length=4 .* set by the experiment"),
        ("guidance", {"samplers": {"a": {"cfg_scale": 1.0}}}, "cfg_scale=1.0 .* set by the experiment"),
        ("efficiency", {"samplers": {"a": [{"gen_length": 4}]}}, "gen_length=4 .* set by the experiment"),
    ],
)
def test_wrong_settings_are_refused(name, values, told):
    with pytest.raises(ConfigError, match=told):
        named(name).settings(**SETTINGS[name] | values)


@pytest.mark.parametrize(("sampler", "steps"), [({"counts": "cosine"}, 4), ({"reveal": "gibbs"}, 8)])
def test_samplers_that_need_steps_are_asked_at_them(sampler, steps):
    values = SETTINGS["samplers"] | {"samplers": {"a": sampler}, "steps": [steps]}
    settings = named("samplers").settings(**values)
    assert settings.every()["a", steps] == SamplerConfig(gen_length=8, steps=steps, **sampler)
