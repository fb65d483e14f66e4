"""Measurements and sweeps on a model whose right answers are known: its own."""

import copy
import json
from dataclasses import replace

import pytest
import torch

import llada
from llada.config import load_config, to_yaml
from llada.data.chat import encode_prompt
from llada.eval.answers import answer
from llada.eval.grid import grid
from llada.eval.identity import fingerprint
from llada.eval.measure import measure
from llada.eval.results import Results, subject_of
from llada.eval.task import read_task
from llada.eval.tune import described, operating_point, rows_of, sweep, verdict
from llada.sampling.config import SamplerConfig


@pytest.fixture(scope="module")
def task(asked):
    return read_task(asked.questions)


def measured(asked, task, sampler, **how):
    return measure(asked.model, asked.tokenizer, task, sampler, **how)


class Calls:
    """Counts the calls of a model."""

    def __init__(self, model):
        self.count = 0
        model.register_forward_pre_hook(self._add)

    def _add(self, *_):
        self.count += 1


@pytest.fixture
def counted(asked):
    model = copy.deepcopy(asked.model)
    return asked._replace(model=model), Calls(model)


def test_sampler_whose_answers_are_expected_is_always_right_and_another_one_less_often(asked, task):
    assert all(measured(asked, task, asked.base).right)
    hasty = measured(asked, task, asked.base.replace(steps=1))
    assert 0 <= sum(hasty.right) < len(hasty.right)


@pytest.mark.parametrize("fields", [{"steps": 4}, {"reveal": "threshold", "threshold": 0.3}, {"cache": "prefix"}])
def test_measurement_is_what_each_row_costs_by_itself(asked, task, fields):
    sampler = asked.base.replace(**fields, temperature=0.7, suppress_tokens=[])
    whole = measured(asked, task, sampler, batch_size=5, seed=3)
    for i, messages in enumerate(task.conversations[:9]):
        prompt = torch.tensor([encode_prompt(asked.tokenizer, messages)])
        out = llada.generate(asked.model, prompt, sampler=sampler, seed=3, first_row=i)
        written = out.sequences[0, prompt.shape[1] :].tolist()
        eos = asked.model.config.eos_token_id
        assert whole.forward_passes[i] == out.forward_passes.item()
        assert whole.tokens[i] == (written.index(eos) + 1 if eos in written else 8)
        assert whole.query_tokens[i] >= out.query_tokens.item()  # the padding of a batch is computed, too


def test_means_are_per_answer(asked, task):
    one = measured(asked, task, asked.base.replace(steps=4), batch_size=7)
    n = len(task.expected)
    assert one.passes_per_answer == 4
    assert one.positions_per_answer * n == sum(one.query_tokens)
    assert one.seconds_per_answer * n == pytest.approx(one.seconds)
    assert one.tokens_per_second * one.seconds == pytest.approx(8 * n)
    assert one.accuracy([0, 2]) == (one.right[0] + one.right[2]) / 2


def test_warm_up_is_one_batch_and_is_not_counted(counted, task):
    asked, calls = counted
    one = measured(asked, task, asked.base.replace(steps=2), batch_size=10)
    batches = -(-len(task.expected) // 10)
    assert calls.count == 2 * (batches + 1)
    assert set(one.forward_passes) == {2}


def test_check_decides_what_is_right(asked, task):
    parts = task._replace(expected=[expected.strip()[:3] for expected in task.expected])
    assert not any(measured(asked, parts, asked.base).right)
    assert all(measured(asked, parts._replace(check="contains"), asked.base).right)


def test_seed_decides_what_is_drawn(asked, task):
    texts = []
    for seed in (0, 0, 1):
        drawn = answer(asked.model, asked.tokenizer, task.conversations, asked.base.replace(temperature=2.0), seed=seed)
        expected = task._replace(expected=[one.text for one in drawn])
        texts.append(expected.expected)
        assert all(measured(asked, expected, asked.base.replace(temperature=2.0), seed=seed).right)
    assert texts[0] == texts[1] != texts[2]


# The file of results


def subject(asked, task):
    return subject_of(asked.model, asked.tokenizer, task, batch_size=8, seed=0)


def swept(asked, task, samplers, results):
    return list(sweep(samplers, lambda one: measured(asked, task, one, batch_size=8), results))


def test_sweep_that_was_interrupted_measures_only_what_is_left(counted, task, tmp_path):
    asked, calls = counted
    samplers = grid(asked.base, steps=[8, 4, 2], thresholds=[0.5], block_lengths=[None], caches=["none"]).samplers
    file, about = tmp_path / "results.json", subject(asked, task)
    before = swept(asked, task, samplers[:2], Results(file, about))
    calls.count = 0
    after = swept(asked, task, samplers, Results(file, about))
    assert after[:2] == before
    assert [one.sampler for one in after] == samplers
    batches = -(-len(task.expected) // 8) + 1
    threshold = calls.count - 2 * batches
    assert batches <= threshold <= 8 * batches  # 2 steps, and the threshold's own number
    calls.count = 0
    assert swept(asked, task, samplers, Results(file, about)) == after
    assert calls.count == 0
    assert swept(asked, task, samplers[2:3], Results(file, about)) == after[2:3]  # another grid
    assert len(json.loads(file.read_text())["measurements"]) == 4  # keeps what it does not ask for


def test_sweep_without_a_file_measures_and_writes_nothing(asked, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = Results(None, subject(asked, task))
    first = swept(asked, task, [asked.base], results)
    assert results.find(asked.base) == first[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["model", "tokenizer", "task", "check", "rows", "seed", "batch_size", "device", "torch"]
)
def test_results_of_something_else_are_refused(asked, task, tmp_path, name):
    file = tmp_path / "results.json"
    Results(file, subject(asked, task)).add(measured(asked, task, asked.base.replace(steps=1)))
    content = file.read_bytes()
    with pytest.raises(ValueError, match=rf"was measured with other settings: {name} .*, not 'else'"):
        Results(file, subject(asked, task) | {name: "else"})
    assert file.read_bytes() == content


def test_subject_tells_models_tasks_and_settings_apart(asked, task):
    here = subject(asked, task)
    assert here == subject(asked, read_task(asked.questions))
    model = copy.deepcopy(asked.model)
    assert fingerprint(model) == here["model"]
    with torch.no_grad():
        model.get_input_embeddings().weight[5, 3] += 1e-9
    assert fingerprint(model) != here["model"]
    model = copy.deepcopy(asked.model)
    model.config.rope_theta *= 2
    assert fingerprint(model) != here["model"]
    assert subject(asked, read_task(asked.questions, rows=5))["task"] != here["task"]
    wrong = task._replace(expected=["0", *task.expected[1:]])
    assert subject(asked, wrong)["task"] != here["task"]
    other = subject_of(asked.model, asked.tokenizer, task._replace(check="contains"), batch_size=9, seed=1)
    assert {name for name in here if here[name] != other[name]} == {"check", "batch_size", "seed"}


def test_fingerprint_is_that_of_the_saved_model(asked, tmp_path):
    asked.model.save_pretrained(tmp_path / "a")
    asked.model.save_pretrained(tmp_path / "b")
    a, b = (llada.load_pretrained(tmp_path / name)[0] for name in "ab")
    assert fingerprint(a) == fingerprint(b)


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: b"not json",
        lambda stored: b"[]",
        lambda stored: b'{"subject": 3, "measurements": []}',
        lambda stored: json.dumps(stored | {"measurements": [{}]}).encode(),
        lambda stored: with_first(stored, right="yes"),
        lambda stored: with_first(stored, tokens=[1.5] * len(stored["measurements"][0]["tokens"])),
        lambda stored: with_first(stored, tokens=[1]),
        lambda stored: with_first(stored, seconds=0),
        lambda stored: with_first(stored, sampler={"stepz": 3}),
    ],
)
def test_damaged_results_are_refused(asked, task, tmp_path, damage):
    file, about = tmp_path / "results.json", subject(asked, task)
    Results(file, about).add(measured(asked, task, asked.base.replace(steps=1)))
    file.write_bytes(damage(json.loads(file.read_text())))
    with pytest.raises(ValueError, match=r"results\.json holds no results of `llada tune` .*; name another file"):
        Results(file, about)


def with_first(stored: dict, **changes) -> bytes:
    stored["measurements"][0] |= changes
    return json.dumps(stored).encode()


def test_results_with_too_few_rows_are_refused(asked, task, tmp_path):
    file, about = tmp_path / "results.json", subject(asked, task)
    columns = {name: [1] for name in ("forward_passes", "query_tokens", "tokens")}
    one = {"sampler": {}, "right": [True], **columns, "seconds": 1.0}
    file.write_text(json.dumps({"subject": about, "measurements": [one]}))
    with pytest.raises(ValueError, match="is damaged: not every measurement has"):
        Results(file, about)


def test_results_that_are_a_folder_are_refused(asked, task, tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Results(tmp_path, subject(asked, task))


# The operating point


def test_operating_point_is_chosen_by_its_rows_and_judged_by_the_others(asked, task):
    samplers = grid(asked.base, steps=[8, 4, 1], thresholds=[], block_lengths=[None], caches=["none"]).samplers
    measurements = swept(asked, task, samplers, Results(None, subject(asked, task)))
    n = len(task.expected)
    rows = rows_of(n, 0.3, split=True, seed=0)
    assert not set(rows.choose) & set(rows.judge)
    point = operating_point(measurements, rows, by="passes", tolerance=0.3)
    chosen, best = measurements[point.choice.chosen], measurements[point.choice.best]
    assert best.accuracy(rows.choose) == 1
    assert point.verdict == verdict(chosen, best, rows.judge)
    assert point.verdict.accuracy == chosen.accuracy(rows.judge)
    assert point.verdict.lost == pytest.approx(best.accuracy(rows.judge) - chosen.accuracy(rows.judge))
    assert point.fronts["passes"][0] == 0
    assert set(point.fronts) == {"time", "passes"}
    together = rows_of(n, 0.3, split=False, seed=0)
    assert together.choose == together.judge == list(range(n))
    with pytest.raises(ValueError, match="not even equal answers show"):
        rows_of(n, 0.01, split=True, seed=0)


def test_cost_that_counts_is_the_one_asked_for(asked, task):
    quick = measured(asked, task, asked.base)
    slow = replace(quick, seconds=100.0, forward_passes=[1] * len(quick.right))
    rows = rows_of(len(task.expected), 0.3, split=True, seed=0)
    assert operating_point([slow, quick], rows, by="time", tolerance=0.3).choice.chosen == 1
    assert operating_point([slow, quick], rows, by="passes", tolerance=0.3).choice.chosen == 0


def test_description_names_what_is_swept():
    assert described(SamplerConfig(gen_length=8, steps=4, temperature=1.0)) == "steps=4"
    assert described(SamplerConfig(gen_length=8, reveal="threshold", threshold=0.0, block_length=4, cache="dual")) == (
        "threshold=0.0 block_length=4 cache=dual"
    )


def test_file_of_a_sampler_loads_to_it_and_gives_the_same_answers(asked, task, tmp_path):
    file = tmp_path / "sampler.yaml"
    samplers = grid(asked.base.replace(temperature=1e-5, eos_last=True)).samplers
    for sampler in samplers:
        file.write_bytes(to_yaml(sampler, "two\nlines: and\x07\u2028 more"))
        for loaded in (load_config(SamplerConfig, file), SamplerConfig.named(str(file))):
            assert loaded.model_dump() == sampler.model_dump()
            assert loaded.model_fields_set == sampler.model_fields_set
    assert len(file.read_text().split("\n")[0]) > 20
    replies = [answer(asked.model, asked.tokenizer, task.conversations[:4], s) for s in (samplers[-1], loaded)]
    assert replies[0] == replies[1]
