"""Traces: recorded, replayed, saved, refused, compared, and what the order of decoding looked like."""

import itertools
import json
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from llada.sampling.denoise import State, denoise
from llada.sampling.drafts import categorical, greedy, replacing
from llada.sampling.generate import SamplerConfig, collect, generation_states
from llada.sampling.orders import Drafts, left_to_right, permutation, random
from llada.sampling.predictors import Meter
from llada.sampling.reveals import gibbs, mask_predict, remdm
from llada.sampling.trace import (
    Kind,
    Parting,
    Recorder,
    Trace,
    ar_ness,
    confidence_of_reveals,
    difference,
    tokens_per_forward,
)

V, L, MASK, STOP = 6, 12, 5, 4
PROMPT = 3


class Coupled:
    """Logits of every position are sums over the tokens at all others: whatever changes moves all predictions."""

    config = SimpleNamespace(mask_token_id=MASK, eos_token_id=STOP, max_position_embeddings=None)
    weights = torch.randn(V, L, L, V, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def __call__(self, canvas: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        return SimpleNamespace(logits=self.weights[canvas, torch.arange(L)].sum(dim=1) / 3)


def predict(canvas: Tensor, block: slice) -> Tensor:
    return Coupled()(canvas).logits[:, block]


def start(rows: int = 4) -> Tensor:
    """Different prompts, and masks behind them; the second row is shorter and has a given token among its masks."""
    canvas = torch.randint(0, 4, (rows, L), generator=torch.Generator().manual_seed(rows))
    canvas[:, PROMPT:] = MASK
    canvas[1:2, 7:9] = 1
    return canvas


HALVES = [slice(PROMPT, 8), slice(8, L)]
RUNS = {
    "greedy": {},
    "several at a time": {"steps": 4, "draft": categorical(1.0), "order": random},
    "blocks": {"blocks": HALVES, "steps": 3, "draft": categorical(1.0)},
    "stop token": {"blocks": HALVES, "steps": 3, "draft": categorical(1.0), "stop_token_id": STOP},
    "stop token late": {"draft": categorical(1.0), "order": random, "stop_token_id": STOP},
    "mask_predict": {"steps": 4, "reveal": mask_predict},
    "remdm": {"steps": 8, "draft": categorical(1.0), "reveal": remdm("rescale", 0.5)},
    "gibbs": {"steps": 20, "draft": categorical(1.0), "reveal": gibbs(2)},
    "edits": {"steps": 3, "edit": replacing(0.4, extra_steps=4)},
}
KINDS = {
    "stop token": Kind.FILLED,
    "stop token late": Kind.FILLED,
    "mask_predict": Kind.REMASKED,
    "remdm": Kind.REMASKED,
    "gibbs": Kind.REMASKED,
    "edits": Kind.EDITED,
}


def recorded(canvas: Tensor | None = None, **options) -> tuple[list[State], Trace]:
    canvas = start() if canvas is None else canvas
    recorder = Recorder(canvas, MASK)
    return list(recorder.watch(denoise(predict, canvas, MASK, **options))), recorder.trace


@cache
def run(name: str) -> tuple[list[State], Trace]:
    return recorded(**RUNS[name])


@pytest.mark.parametrize("name", RUNS)
def test_replay_gives_the_canvas_of_every_state(name):
    states, trace = run(name)
    replayed = list(trace.replay())
    assert trace.steps == len(states) == len(replayed) > 0
    assert all(torch.equal(canvas, state.canvas) for canvas, state in zip(replayed, states, strict=True))
    assert torch.equal(trace.final, states[-1].canvas)
    assert torch.equal(trace.canvas, start())


@pytest.mark.parametrize("name", RUNS)
def test_recording_does_not_change_the_states(name):
    states, _ = run(name)
    for seen, alone in zip(states, denoise(predict, start(), MASK, **RUNS[name]), strict=True):
        for field, value in vars(alone).items():
            other = vars(seen)[field]
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


@pytest.mark.parametrize("name", RUNS)
def test_columns_say_what_the_states_say(name):
    """The slow reading: one row, one position after the other."""
    states, trace = run(name)
    expected, before = [], start()
    for step, state in enumerate(states):
        for row, position in itertools.product(range(len(before)), range(L)):
            old, new = int(before[row, position]), int(state.canvas[row, position])
            if old == new:
                continue
            inside = state.block.start <= position < state.block.stop and bool(state.active[row])
            place = row, position - state.block.start
            asked = inside and new == (int(state.draft[place]) if state.visible[place] else MASK)
            kind = Kind.FILLED if not asked else Kind.EDITED if old != MASK else Kind.REVEALED
            kind = Kind.REMASKED if new == MASK else kind
            p = float(state.probability[place]) if kind == Kind.REVEALED else 1.0
            expected.append((step, row, position, new, kind, p))
        before = state.canvas
    columns = (trace.step, trace.row, trace.position, trace.token, trace.kind, trace.probability)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
    assert trace.index.tolist() == [state.index for state in states]
    assert trace.blocks.tolist() == [[state.block.start, state.block.stop] for state in states]
    assert torch.equal(trace.active, torch.stack([state.active for state in states]))


@pytest.mark.parametrize("name", KINDS)
def test_runs_of_these_tests_have_the_changes_that_they_are_for(name):
    trace = run(name)[1]
    assert (trace.kind == KINDS[name]).any()
    assert (trace.kind == Kind.REVEALED).any()


def test_revealed_tokens_have_their_probability_and_all_other_changes_have_one():
    for name in RUNS:
        trace = run(name)[1]
        revealed = trace.kind == Kind.REVEALED
        assert (trace.probability[~revealed] == 1).all()
        assert ((trace.probability[revealed] > 0) & (trace.probability[revealed] < 1)).all()


def test_a_row_that_had_stopped_before_the_first_step_is_filled_and_takes_no_part():
    canvas = masks(2)
    canvas[0, :2] = torch.tensor([STOP, 1])
    everything = torch.ones(2, L, dtype=torch.bool)
    blocks = [slice(0, 2), slice(2, L)]
    states, trace = recorded(canvas, blocks=blocks, writable=everything, stop_token_id=STOP, steps=2)
    assert torch.equal(next(trace.replay()), states[0].canvas)
    at_once = (trace.row == 0) & (trace.step == 0)
    assert not trace.active[:, 0].any()
    assert trace.position[at_once].tolist() == list(range(1, L))
    assert (trace.kind[at_once] == Kind.FILLED).all()


def test_a_run_that_is_left_early_is_recorded_up_to_there_and_goes_on_from_there():
    canvas = start()
    recorder = Recorder(canvas, MASK)
    states = recorder.watch(denoise(predict, canvas, MASK, blocks=[slice(PROMPT, L)], steps=9))
    left = [next(states), next(states)][-1].canvas
    assert recorder.trace.steps == 2
    assert torch.equal(recorder.trace.final, left)
    rest = list(recorder.watch(denoise(predict, left, MASK, blocks=[slice(PROMPT, L)], steps=9, first_step=2)))
    assert recorder.trace.index.tolist() == list(range(2 + len(rest)))
    assert torch.equal(recorder.trace.final, rest[-1].canvas)


@pytest.mark.parametrize("shape", [(0, L), (2, 0), (2, L)])
def test_a_run_without_steps_is_a_trace_without_changes(shape, tmp_path):
    states, trace = recorded(torch.zeros(shape, dtype=torch.long))
    assert states == list(trace.replay()) == []
    assert torch.equal(trace.final, torch.zeros(shape, dtype=torch.long))
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace
    assert ar_ness(trace, 1).local_at_k.isnan().tolist() == [True] * shape[0]
    assert confidence_of_reveals(trace).mean.isnan().tolist() == [True] * shape[0]
    assert tokens_per_forward(trace).tolist() == [0.0] * shape[0]


def test_a_canvas_of_another_size_is_refused():
    recorder = Recorder(start()[:, :PROMPT], MASK)
    with pytest.raises(ValueError, match=r"a canvas \(4, 3\) and watches one of \(4, 12\); give it the canvas"):
        list(recorder.watch(denoise(predict, start(), MASK)))


# Files


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


def test_a_probability_that_is_no_number_is_kept_and_the_file_stays_json(tmp_path):
    trace = recorded()[1]
    trace.probability[0] = torch.nan
    trace.save(tmp_path / "trace.json")
    assert "NaN" not in (tmp_path / "trace.json").read_text()
    assert Trace.load(tmp_path / "trace.json").probability.isnan().nonzero().tolist() == [[0]]


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


# Where two runs part


def test_a_trace_does_not_differ_from_itself():
    for name in RUNS:
        assert difference(run(name)[1], run(name)[1]) == []


def test_a_planted_change_is_found_where_it_was_planted():
    """At step 4 the second model drafts something else in row 2; the rows beside it do not see that."""

    def bent(canvas: Tensor, block: slice) -> Tensor:
        logits = predict(canvas, block)
        late = (canvas == MASK).sum(dim=1) == 5
        likeliest = logits[..., :MASK].argmax(dim=-1)
        logits[2] = torch.where(late[2], logits[2] - 20 * torch.nn.functional.one_hot(likeliest[2], V), logits[2])
        return logits

    one = recorded()[1]
    recorder = Recorder(start(), MASK)
    list(recorder.watch(denoise(bent, start(), MASK)))
    (parting,) = difference(one, recorder.trace)
    assert (parting.row, parting.step) == (2, 4)
    for ours, theirs in parting.changes.values():
        assert ours is None or theirs is None or ours.token != theirs.token
    assert difference(recorder.trace, one) == [
        Parting(2, 4, {position: (b, a) for position, (a, b) in parting.changes.items()})
    ]


def test_runs_part_at_the_first_step_after_which_their_canvases_differ():
    for a, b in itertools.combinations(RUNS, 2):
        one, other = run(a)[1], run(b)[1]
        expected = {}
        steps = itertools.zip_longest(one.replay(), other.replay())
        for step, (x, y) in enumerate(steps):
            x, y = one.final if x is None else x, other.final if y is None else y
            for row in range(4):
                if not torch.equal(x[row], y[row]) and row not in expected:
                    expected[row] = step, (x[row] != y[row]).nonzero()[:, 0].tolist()
        found = {parting.row: (parting.step, list(parting.changes)) for parting in difference(one, other)}
        assert found == expected


def test_traces_from_different_canvases_are_not_compared():
    with pytest.raises(ValueError, match="start from different canvases"):
        difference(recorded()[1], recorded(start()[:2])[1])
    with pytest.raises(ValueError, match="start from different canvases"):
        difference(recorded()[1], recorded(start().flip(0))[1])


# Orders of decoding


def masks(rows: int, length: int = L) -> Tensor:
    return torch.full((rows, length), MASK)


@pytest.mark.parametrize("k", [1, 2, 5, L - 1])
def test_reading_order_is_autoregressive(k):
    for steps in (L, 4):
        ness = ar_ness(recorded(masks(2), order=left_to_right, steps=steps)[1], k)
        assert ness.local_at_k.tolist() == ness.global_at_k.tolist() == [1.0, 1.0]


def test_right_to_left_is_not_autoregressive():
    trace = recorded(masks(2), order=permutation(range(L - 1, -1, -1)))[1]
    for k in range(1, L):
        ness = ar_ness(trace, k)
        assert ness.local_at_k.tolist() == [0.0, 0.0]
        assert ness.global_at_k.tolist() == pytest.approx([k / L, k / L])


def by_definition(order: list[int], hidden: set[int], k: int) -> tuple[float, float]:
    """Local and global autoregressiveness of positions revealed one after the other, among the hidden ones."""
    left, local, leftmost = set(hidden), [], []
    for i, position in enumerate(order):
        if i >= k:
            local.append(order[i - k : i + 1] == list(range(position - k, position + 1)))
        leftmost.append(position in sorted(left)[:k])
        left.remove(position)
    return sum(local) / len(local) if local else float("nan"), sum(leftmost) / len(leftmost)


def test_random_orders_have_their_expected_autoregressiveness():
    """Over all orders of five tokens global@k is the mean over m masks left of min(k, m) / m, exactly."""
    length = 5
    orders = list(itertools.permutations(range(length)))
    score = -torch.tensor(orders).argsort(dim=1).double()  # row i reveals orders[i]

    def of_rows(drafts: Drafts) -> Tensor:  # every row has as many masks left as the others
        return score[torch.arange(len(drafts.place)) * len(orders) // len(drafts.place), drafts.place]

    trace = trace_of(of_rows, masks(len(orders), length))
    for k in range(1, length + 2):
        ness = ar_ness(trace, k)
        expected = sum(min(k, m) / m for m in range(1, length + 1)) / length
        assert float(ness.global_at_k.mean()) == pytest.approx(expected, abs=1e-6)
        each = [by_definition(list(order), set(range(length)), k) for order in orders]
        assert ness.local_at_k.tolist() == pytest.approx([local for local, _ in each], nan_ok=True)
        assert ness.global_at_k.tolist() == pytest.approx([leftmost for _, leftmost in each])


def trace_of(order, canvas: Tensor) -> Trace:
    recorder = Recorder(canvas, MASK)
    list(recorder.watch(denoise(lambda c, b: torch.zeros(*c.shape, V), canvas, MASK, order=order)))
    return recorder.trace


@pytest.mark.parametrize("name", RUNS)
def test_autoregressiveness_is_that_of_the_last_reveals_in_every_run(name):
    trace = run(name)[1]
    for row, k in itertools.product(range(4), (1, 2, 3)):
        order: list[int] = []
        for r, position, kind in zip(trace.row.tolist(), trace.position.tolist(), trace.kind.tolist(), strict=True):
            if r == row and kind == Kind.REVEALED:
                order = [*(p for p in order if p != position), position]
        local, leftmost = by_definition(order, set((start()[row] == MASK).nonzero()[:, 0].tolist()), k)
        ness = ar_ness(trace, k)
        assert float(ness.local_at_k[row]) == pytest.approx(local, nan_ok=True)
        assert float(ness.global_at_k[row]) == pytest.approx(leftmost)


def test_autoregressiveness_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        ar_ness(recorded()[1], 0)


# What it cost and how sure it was


@pytest.mark.parametrize(
    "sampler",
    [
        SamplerConfig(gen_length=9),
        SamplerConfig(gen_length=9, steps=3, temperature=1.0, order="random", cfg_scale=0.5),
        SamplerConfig(gen_length=9, block_length=3, temperature=1.0, stop_at_eos=True),
        SamplerConfig(gen_length=9, steps=6, temperature=1.0, reveal="remdm", remask="rescale", eta=0.3),
    ],
    ids=["greedy", "guided", "stops", "remasks"],
)
def test_tokens_per_forward_are_those_of_generation(sampler):
    prompt = start(6)[:, :PROMPT]
    recorder = Recorder(torch.nn.functional.pad(prompt, (0, 9), value=MASK), MASK)
    meter = Meter.of(prompt)
    states = generation_states(Coupled(), prompt, None, sampler, 7, meter=meter)
    out = collect(recorder.watch(states), Coupled(), prompt, sampler, meter)
    evaluations = 2 if sampler.cfg_scale else 1
    found = tokens_per_forward(recorder.trace, eos_token_id=STOP, evaluations=evaluations)
    assert torch.equal(recorder.trace.final, out.sequences)
    assert torch.equal(found, out.tokens_per_forward)


def test_tokens_per_forward_count_what_was_predicted_and_not_what_was_filled_in():
    assert tokens_per_forward(recorded(masks(1), steps=4)[1]).tolist() == [3.0]
    stopping = recorded(masks(8), draft=categorical(1.0), order=left_to_right, stop_token_id=STOP)[1]
    assert (stopping.kind == Kind.FILLED).any()
    assert tokens_per_forward(stopping).tolist() == [1.0] * 8


def test_confidence_is_that_of_the_last_reveal_of_each_token():
    for name in RUNS:
        states, trace = run(name)
        held, before = torch.full((4, L), torch.nan, dtype=torch.float64), start()
        for step, state in enumerate(states):
            revealed = torch.zeros(4, L, dtype=torch.bool)
            here = (trace.step == step) & (trace.kind == Kind.REVEALED)
            revealed[trace.row[here], trace.position[here]] = True
            assert (before[revealed] == MASK).all()
            whole = torch.full((4, L), torch.nan, dtype=torch.float64)
            whole[:, state.block] = state.probability
            held, before = torch.where(revealed, whole, held), state.canvas
        mean, variance = confidence_of_reveals(trace)
        for row in range(4):
            p = held[row][~held[row].isnan()]
            assert float(mean[row]) == pytest.approx(float(p.mean()))
            assert float(variance[row]) == pytest.approx(float(p.var(correction=0)))


def test_greedy_is_surer_of_its_tokens_than_chance_and_one_token_has_no_variance():
    canvas = start(1)
    canvas[0, PROMPT:] = torch.tensor([MASK] + [1] * 8)
    mean, variance = confidence_of_reveals(recorded(canvas, draft=greedy)[1])
    assert float(mean) > 1 / (V - 1)
    assert float(variance) == 0
