"""Text → ids, in several processes, in the order of the text whatever their number."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chunk = TypeVar("Chunk")
AHEAD = 2  # chunks per process that wait to be encoded or to be taken


class Encoded(NamedTuple):
    """The ids of a few texts."""

    ids: np.ndarray  # uint32, of all texts after each other
    lengths: np.ndarray  # int64, of each

    def split(self) -> list[np.ndarray]:
        return np.split(self.ids, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


class Encoder:
    """`llada.data.tokenizer.encode_batch` without transformers, whose import would take each process seconds."""

    def __init__(self, state: str):
        """`state`: of a tokenizer of the library tokenizers, as `tokenizer_state` gives it."""
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(state)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.tokenizer.encode_special_tokens = True  # control tokens spelled out in a text stay text

    def __call__(self, texts: Sequence[str]) -> Encoded:
        found = [each.ids for each in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.array([len(ids) for ids in found], np.int64)
        return Encoded(np.concatenate([np.zeros(0, np.uint32), *(np.array(i, np.uint32) for i in found)]), lengths)


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer as text; ValueError for one that is not of the library tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{type(tokenizer).__name__} is not of the library tokenizers: use its fast version")
    return backend.to_str()


def encode_chunks(
    chunks: Iterable[Chunk], texts: Callable[[Chunk], Sequence[str]], state: str, workers: int
) -> Iterator[tuple[Chunk, Encoded]]:
    """Each chunk with the ids of its texts, in order; only a few chunks are in memory.

    With several workers each is a process with one thread; with one, this process does the work. Processes end when
    this one does, however it ends. Raises OSError where one of them is killed.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: at least 1 process encodes")
    if workers == 1:
        encode = Encoder(state)
        for chunk in chunks:
            yield chunk, encode(texts(chunk))
        return
    # spawned: a forked copy of a process with threads (datasets has some) may wait for ever for a lock
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (state,))
    waiting: deque[tuple[Chunk, Future[Encoded]]] = deque()
    try:
        for chunk in chunks:
            asked = texts(chunk)
            with _explained(workers, ValueError):  # as does a pool that closes while it starts a process
                waiting.append((chunk, pool.submit(_encode, asked)))
            if len(waiting) > AHEAD * workers:
                yield _taken(waiting, workers)
        while waiting:
            yield _taken(waiting, workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(waiting: deque[tuple[Chunk, Future[Encoded]]], workers: int) -> tuple[Chunk, Encoded]:
    chunk, future = waiting.popleft()
    with _explained(workers):
        return chunk, future.result()


@contextmanager
def _explained(workers: int, *others: type[Exception]) -> Iterator[None]:
    """Says what `others` also mean, beside what every broken pool raises (OSError where it was closing just then)."""
    try:
        yield
    except (BrokenProcessPool, OSError, *others) as error:
        raise OSError(
            f"one of the {workers} processes that encode was killed, perhaps for want of memory; the same command with "
            "fewer --workers goes on"
        ) from error


_encoder: Encoder | None = None  # of a worker process


def _start(state: str) -> None:
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _encoder = Encoder(state)


def _end_with_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _encode(texts: Sequence[str]) -> Encoded:
    assert _encoder is not None
    return _encoder(texts)
