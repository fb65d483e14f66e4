"""Doing things in several processes such that all go on, or all stop: none waits for one that has failed."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")


def together(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Do `action` on every process. Where it fails on one, it raises there, and RuntimeError on the others."""
    result: Any = None
    problem: Exception | None = None
    try:
        result = action()
    except Exception as error:
        problem = error
    mine = [None if problem is None else f"process {accelerator.process_index}: {problem}"]
    problems = [text for text in gather_object(mine) if text is not None]
    if problem is not None:
        raise problem
    if problems:
        raise RuntimeError("; ".join(problems))
    return result


def on_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Do `action` on the main process; its result, or its failure, on all."""
    result = [together(accelerator, lambda: action() if accelerator.is_main_process else None)]
    broadcast_object_list(result)
    return result[0]  # pyright: ignore[reportReturnType]  # it comes from the main process
