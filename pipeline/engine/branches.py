"""Branches of a chain: steps that read common artifacts and not each other, one after the other or several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event, Thread
from typing import Any, Protocol, TypeVar, runtime_checkable

from pipeline.engine.steps import Step

Result = TypeVar("Result")
ASK_SECONDS = 5.0  # how many may be at work, while one waits for a place


@runtime_checkable
class BranchingStep(Protocol):
    """A step that shows people a branch as one, and may do several at once."""

    def as_one(self, name: str, reads: Sequence[Any], work: Callable[[Step], Result]) -> Future[Result]:
        """Return what `work` is to return, which does the steps of the branch, from the artifacts in `reads`."""


def as_one(step: Step, name: str, reads: Sequence[Any], work: Callable[[Step], Result]) -> Future[Result]:
    """Do the steps of a branch, with the step that `work` is given, and return its result: at once, or when it is asked for."""
    if isinstance(step, BranchingStep):
        return step.as_one(name, reads, work)
    return done(work(step))


def done(result: Result) -> Future[Result]:
    """Return a result that is there already."""
    future: Future[Result] = Future()
    future.set_result(result)
    return future


class Branches:
    """Does branches in threads of this process, where others, GPU workers, do the work that takes long."""

    def __init__(self, n_at_once: Callable[[], int]) -> None:
        """Args: `n_at_once` says how many may be at work now; up to 1, each is done before the chain goes on."""
        self._n_at_once = n_at_once
        self._begun: list[Future[Any]] = []

    def start(self, work: Callable[[Callable[[], object]], Result]) -> Future[Result]:
        """Have a branch done as soon as there is a place for it, and return once it has begun.

        A branch that has failed begins no others: its error is raised; those at work are finished, and in the store.

        Args:
            work: does the branch; calls what it is given when it has begun.
        """
        n_at_once = self._n_at_once()
        while (at_work := self._at_work()) and len(at_work) >= n_at_once:
            wait(at_work, ASK_SECONDS, FIRST_COMPLETED)
            n_at_once = self._n_at_once()
        self.raise_failed()
        if n_at_once <= 1:
            return done(work(lambda: None))
        future: Future[Result] = Future()
        has_begun = Event()

        def do() -> None:
            try:
                future.set_result(work(has_begun.set))
            except BaseException as error:
                future.set_exception(error)
            finally:
                has_begun.set()

        self._begun.append(future)
        # A daemon: a process that is told to end does not wait for it; the store is safe of that.
        Thread(target=copy_context().run, args=(do,), daemon=True).start()
        has_begun.wait()
        return future

    def wait(self) -> None:
        """Wait for the end of all that have begun, whatever becomes of them."""
        wait(self._begun)

    def raise_failed(self) -> None:
        """Raise the error of the first branch that has failed, if one has."""
        for future in self._begun:
            if future.done():
                future.result()

    def _at_work(self) -> list[Future[Any]]:
        return [future for future in self._begun if not future.done()]


@contextmanager
def branching(n_at_once: Callable[[], int]) -> Iterator[Branches]:
    """Yield what does branches, and wait for them; also where the chain fails beside them, but not where it is told to end.

    Raises:
        Exception: that of the first branch that failed.
    """
    branches = Branches(n_at_once)
    try:
        yield branches
    except Exception:
        branches.wait()
        raise
    branches.wait()
    branches.raise_failed()
