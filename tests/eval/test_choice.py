"""The Pareto front against a second algorithm, and the choice against enumeration and simulation."""

import math
import random

import pytest

from llada.eval.choice import check_tolerance, choose, halves, limit_of_loss, pareto
from llada.eval.intervals import least_loss_limit, loss_limit


def front_by_scan(points: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """The points of the front, from the cheapest on: one belongs to it if it is more accurate than all before."""
    found, highest = set(), -math.inf
    for accuracy, cost in sorted(points, key=lambda point: (point[1], -point[0])):
        if accuracy > highest:
            found.add((accuracy, cost))
            highest = accuracy
    return found


@pytest.mark.parametrize("values", [2, 4, 30])
def test_front_is_that_of_a_scan_with_all_that_tie(values):
    draw = random.Random(values)
    for _ in range(300):
        points = [(draw.randrange(values), draw.randrange(values)) for _ in range(draw.randrange(12))]
        wanted = [i for i, point in enumerate(points) if point in front_by_scan(points)]
        assert pareto(*zip(*points, strict=True)) == wanted if points else pareto([], []) == []


def test_front_of_known_points():
    assert pareto([0.9, 0.9, 0.8, 0.8, 0.95], [5, 5, 2, 3, 9]) == [0, 1, 2, 4]


def marks(lost: int, won: int, rows: int) -> tuple[list[bool], list[bool]]:
    """Answers of two samplers to the same rows: `lost` only the first gets right, `won` only the second."""
    both = rows - lost - won
    return [True] * lost + [False] * won + [True] * both, [False] * lost + [True] * won + [True] * both


def test_limit_counts_pairs():
    assert limit_of_loss(*marks(4, 2, 50)) == loss_limit(4, 2, 50)
    shuffled = list(zip(*marks(4, 2, 50), strict=True))
    random.Random(0).shuffle(shuffled)
    assert limit_of_loss(*zip(*shuffled, strict=True)) == loss_limit(4, 2, 50)


def test_cheapest_within_the_tolerance_is_chosen():
    dear, cheap = marks(1, 0, 100)
    bad = [False] * 20 + [True] * 80
    samplers, costs = [dear, dear, cheap, bad], [9.0, 8.0, 2.0, 1.0]
    choice = choose(samplers, costs, 0.06)
    assert choice[:3] == (1, 2, True)
    equal = least_loss_limit(100)
    assert choice.limits == pytest.approx([equal, equal, loss_limit(1, 0, 100), loss_limit(20, 0, 100)])
    assert choose(samplers, costs, 0.05)[:3] == (1, 1, True)
    assert choose([dear, cheap], [1.0, 2.0], 0.06)[:3] == (0, 0, True)  # the best is the cheapest, too


def test_every_other_sampler_counts_not_only_the_best():
    """The first has most right; the second loses nothing against it that shows, but much against the third."""
    first = [True] * 52 + [False] * 48
    second = [True] * 51 + [False] * 49
    third = [False] * 49 + [True] * 51
    limits = choose([first, second, third], [3.0, 2.0, 1.0], 0.05).limits
    assert limits[1] == pytest.approx(limit_of_loss(third, second))
    assert limits[1] > limit_of_loss(first, second)


def test_least_doubtful_is_chosen_where_nothing_is_shown():
    one, other = marks(20, 18, 60)
    assert choose([one, other], [2.0, 1.0], 0.1)[:3] == (0, 0, False)
    assert choose([other, one], [1.0, 2.0], 0.1)[:3] == (1, 1, False)
    even, odd = marks(20, 20, 60)
    assert choose([even, odd], [2.0, 1.0], 0.1)[:3] == (1, 1, False)


def chance_to_pass(rows: int, drop: float, won: float, tolerance: float) -> float:
    """Of the cheaper of two samplers, enumerated over how many rows one or the other alone gets right."""
    chance = 0.0
    for b in range(rows + 1):
        for c in range(rows + 1 - b):
            counts, shares = (b, c, rows - b - c), (won + drop, won, 1 - 2 * won - drop)
            p = math.factorial(rows) / math.prod(map(math.factorial, counts))
            p *= math.prod(share**n for share, n in zip(shares, counts, strict=True))
            if p > 1e-12:
                choice = choose(marks(b, c, rows), [2.0, 1.0], tolerance)
                chance += p * (choice.shown and choice.chosen == 1)
    return chance


@pytest.mark.parametrize("won", [0.0, 0.01, 0.05, 0.2, 0.43])
def test_sampler_that_loses_more_passes_in_at_most_4_percent_of_cases(won):
    assert chance_to_pass(40, 0.12, won, tolerance=0.1199) < 0.039


def test_four_percent_are_not_idly_many():
    assert chance_to_pass(40, 0.12, 0.2, tolerance=0.1199) > 0.02


def test_sampler_that_loses_nothing_usually_passes():
    assert chance_to_pass(40, 0.0, 0.005, tolerance=0.12) > 0.8


def test_accuracy_of_the_chosen_is_flattered_where_it_was_chosen_and_true_elsewhere():
    """Samplers that are right by the toss of a coin; the bounds are 4 standard errors, a false alarm of 6e-5."""
    draw, rows, sweeps, seen, unseen = random.Random(0), 40, 150, 0.0, 0.0
    for sweep in range(sweeps):
        answers = [[draw.random() < 0.5 for _ in range(rows)] for _ in range(8)]
        by, others = halves(rows, sweep)
        chosen = choose([[of_one[i] for i in by] for of_one in answers], list(range(8)), 0.2).chosen
        seen += sum(answers[chosen][i] for i in by) / len(by) / sweeps
        unseen += sum(answers[chosen][i] for i in others) / len(others) / sweeps
    error = 0.5 / math.sqrt(rows / 2 * sweeps)
    assert abs(unseen - 0.5) < 4 * error
    assert seen - 0.5 > 4 * error


@pytest.mark.parametrize("rows", [2, 9, 100])
def test_halves_share_the_rows_evenly_and_differ_with_the_seed(rows):
    by, others = halves(rows, 0)
    assert sorted(by + others) == list(range(rows))
    assert len(by) - len(others) == rows % 2
    assert halves(rows, 0) == (by, others)
    if rows == 100:
        assert halves(rows, 1) != (by, others)


def test_tolerance_that_so_few_rows_cannot_show_is_refused_with_a_number_that_would_do():
    with pytest.raises(ValueError, match=r"not even equal answers show .* give 381 rows or more") as caught:
        check_tolerance(0.01, 100)
    assert "from 0.0370 to 1" in str(caught.value)
    check_tolerance(0.01, 381)
    check_tolerance(0.0370, 100)
    with pytest.raises(ValueError, match="380 rows"):
        check_tolerance(0.01, 380)
    for nonsense in (0.0, -1.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="set a tolerance from"):
            check_tolerance(nonsense, 100)
    with pytest.raises(ValueError, match=r"tolerance=0\.01"):
        choose(marks(0, 0, 100), [1.0, 2.0], 0.01)


def test_choice_among_nothing_is_refused():
    with pytest.raises(ValueError, match="no samplers"):
        choose([], [], 0.05)
