"""Measures of traces: where two part, how autoregressive the order was, what it cost and how sure it was."""

import itertools

import pytest
import torch
from torch import Tensor
from traced import MASK, PROMPT, RUNS, STOP, Coupled, L, V, masks, predict, recorded, run, start

from llada.sampling.denoise import denoise
from llada.sampling.drafts import categorical, greedy
from llada.sampling.generate import SamplerConfig, collect, generation_states
from llada.sampling.orders import Drafts, left_to_right, permutation
from llada.sampling.predictors import Meter
from llada.sampling.trace import Kind, Recorder, Trace
from llada.sampling.trace_measures import Parting, ar_ness, confidence_of_reveals, difference, tokens_per_forward


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
