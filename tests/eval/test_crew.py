"""Processes that answer together, here threads of one process, between which all is pickled as between processes."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from llada.eval import crew as module
from llada.eval.arguments import Settings
from llada.eval.crew import Crew, Work
from llada.eval.evaluation import evaluate
from llada.eval.presets import Preset, TaskSettings
from llada.eval.processes import Processes, sendable
from llada.eval.responses import Responses

COUNT = 3
PATIENCE = 20.0  # seconds, after which a thread that waits for another one is an error


class Thread(Processes):
    """One of several that share a barrier and a place for each to leave something in."""

    def __init__(self, rank: int, barrier: threading.Barrier, places: list[bytes]):
        self.rank, self.count, self._barrier, self._places = rank, COUNT, barrier, places

    def _all(self, obj: Any) -> list[Any]:
        self._places[self.rank] = pickle.dumps(obj)
        self._barrier.wait(PATIENCE)
        found = [pickle.loads(place) for place in self._places]
        self._barrier.wait(PATIENCE)
        return found

    def broadcast_object(self, obj: Any) -> Any:
        return self._all(obj)[0]

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any]:
        found = self._all(obj)
        return found if self.rank == dst else []


class UnsendableError(FloatingPointError):
    """As it is, no other process can read it."""

    def __init__(self, one: str, other: str):
        super().__init__(f"{one} and {other}")


def together(action: Callable[[Thread], object]) -> list[Any]:
    """What each process returns, or the exception that ends it."""
    barrier, places, found = threading.Barrier(COUNT), [b""] * COUNT, [None] * COUNT

    def run(rank: int) -> None:
        try:
            found[rank] = action(Thread(rank, barrier, places))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(COUNT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    return found


@pytest.fixture
def broken(monkeypatch) -> dict[str, Exception]:
    """Keys that cannot be answered, and why; all others are answered by themselves."""
    errors: dict[str, Exception] = {}

    def answer(_kind, _model, _tokenizer, asked, _settings, keep) -> None:
        for key, value in asked.items():
            if key in errors:
                raise errors[key]
            keep(key, {"value": value})

    monkeypatch.setattr(module, "answer", answer)
    return errors


def answered(asked, works: list[dict[str, int]], then: Exception | None = None):
    """All processes answer the works, one after another, and the first ends with an error or without."""

    def action(process: Thread) -> dict:
        crew = Crew(asked.model, asked.tokenizer, Responses(), process, watched=False)
        if process.rank > 0:
            crew.serve()
        else:
            with crew.leading():
                for work in works:
                    crew.answer(Work("likelihoods", work, Settings()))
                if then is not None:
                    raise then
        return crew.responses.known()

    return together(action)


def test_all_take_their_share_and_the_first_knows_all(asked, broken):
    works = [{f"{k}{i}": i for i in range(n)} for k, n in (("a", 7), ("b", 0), ("c", 2))]
    found = answered(asked, works)
    assert found[0] == {key: {"value": value} for work in works for key, value in work.items()}
    assert [len(known) for known in found] == [9, 3, 2]


@pytest.mark.parametrize("key", ["a0", "a1", "a5"])
@pytest.mark.parametrize("error", [ValueError("no"), AttributeError("no"), UnsendableError("this", "that")])
def test_an_error_in_any_process_ends_all(asked, broken, key, error):
    broken[key] = error
    found = answered(asked, [{f"a{i}": i for i in range(7)}])
    kind, text = type(error), "no"
    if isinstance(error, UnsendableError):
        kind, text = FloatingPointError, "UnsendableError: this and that"
    told = [one for one in found if one is not error]
    assert len(told) >= COUNT - 1
    assert all(type(one) is kind and str(one) == text for one in told)
    rank = int(key[1]) % COUNT
    assert found[0] is error if rank == 0 else found[rank].__cause__ is error  # which has the traceback


def test_two_errors_at_once_end_all(asked, broken):
    broken["a1"], broken["a2"] = ValueError("one"), ValueError("other")
    assert [str(one) for one in answered(asked, [{f"a{i}": i for i in range(3)}])] == ["one"] * COUNT


def test_an_error_of_the_first_process_alone_ends_all(asked, broken):
    found = answered(asked, [{"a0": 1, "a1": 2}], then=OSError("disk full"))
    assert [(type(one), str(one)) for one in found] == [(OSError, "disk full")] * COUNT


@pytest.mark.parametrize("error", [None, ValueError("no"), UnsendableError("this", "that")])
def test_what_the_first_does_alone_is_done_once_and_before_all_go_on(error):
    done = []

    def action(process: Thread) -> int:
        def once() -> None:
            if error is not None:
                raise error
            done.append(process.rank)

        process.first_alone(once)
        return len(done)

    found = together(action)
    if error is None:
        assert found == [1] * COUNT
    else:
        assert found[0] is error
        assert {str(one) for one in found[1:]} == {str(sendable(error))}


@pytest.mark.parametrize("kind", [ValueError, OSError, FloatingPointError, KeyError])
def test_what_cannot_be_sent_is_told_by_an_error_that_ends_a_command_alike(kind):
    class Local(kind):
        """Its class cannot be found by its name."""

    told = sendable(Local("no"))
    assert type(told) is (RuntimeError if kind is KeyError else kind)
    assert str(told) == f"Local: {Local('no')}"
    assert pickle.loads(pickle.dumps(told)).args == told.args


def test_settings_that_cannot_be_end_the_evaluation_in_all_processes(asked):
    preset, manager = Preset(tasks={"choice": TaskSettings()}), TaskManager(include_defaults=False)
    found = together(lambda process: evaluate(asked.model, asked.tokenizer, preset, manager, process, batch_size=0))
    assert all("batch_size: Input should be greater than or equal to 1" in str(one) for one in found)
