"""Branches of a chain: each a sequence of steps, independent of the other branches, that may run in parallel with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from threading import Event, Thread
from typing import Any, Protocol, TypeVar, runtime_checkable

from pipeline.engine.steps import Step

Result = TypeVar("Result")
POLL_SECONDS = 5.0  # interval at which a waiting branch asks for the number of branches allowed


@runtime_checkable
class BranchingStep(Protocol):
    """A step that shows a branch as one unit, and may run several branches in parallel."""

    def as_one(self, name: str, reads: Sequence[Any], work: Callable[[Step], Result]) -> Future[Result]:
        """Return a future of `work(step)`, which runs the steps of a branch that reads the artifacts in `reads`."""


def as_one(step: Step, name: str, reads: Sequence[Any], work: Callable[[Step], Result]) -> Future[Result]:
    """Return a future of `work(step)`, which runs the steps of a branch: in parallel if `step` can, else immediately.

    Run immediately, an error of the branch is raised here and not by the future.
    """
    if isinstance(step, BranchingStep):
        return step.as_one(name, reads, work)
    return finished_future(work(step))


def finished_future(result: Result) -> Future[Result]:
    """Return a finished future."""
    future: Future[Result] = Future()
    future.set_result(result)
    return future


class Branches:
    """Runs branches in threads of this process, which mostly wait for GPU workers."""

    def __init__(self, n_at_once: Callable[[], int]) -> None:
        """Args: `n_at_once` returns the number of branches allowed in parallel; up to 1, each runs in the calling thread."""
        self._n_at_once = n_at_once
        self._started: list[Future[Any]] = []

    def start(self, work: Callable[[Callable[[], object]], Result]) -> Future[Result]:
        """Wait until another branch is allowed, start it in a thread, and return once it has begun.

        Raises the error of a failed branch instead of starting another; running branches continue, and fill the store.

        Args:
            work: runs the branch; it receives a callback to call when it has begun.
        """
        n_at_once = self._n_at_once()
        while (running := self._running()) and len(running) >= n_at_once:
            wait(running, POLL_SECONDS, FIRST_COMPLETED)
            n_at_once = self._n_at_once()
        self.raise_failed()
        if n_at_once <= 1:
            return finished_future(work(lambda: None))
        future: Future[Result] = Future()
        has_begun = Event()

        def do() -> None:
            try:
                future.set_result(work(has_begun.set))
            except BaseException as error:
                future.set_exception(error)
            finally:
                has_begun.set()

        # A daemon thread: an interrupted process does not wait for it; the store stays consistent.
        Thread(target=copy_context().run, args=(do,), daemon=True).start()
        self._started.append(future)
        has_begun.wait()
        return future

    def wait(self) -> None:
        """Wait for all started branches, successful or not."""
        wait(self._started)

    def raise_failed(self) -> None:
        """Raise the error of the first failed branch, if any."""
        for future in self._started:
            if future.done():
                future.result()

    def _running(self) -> list[Future[Any]]:
        return [future for future in self._started if not future.done()]


@contextmanager
def branching(n_at_once: Callable[[], int]) -> Iterator[Branches]:
    """Yield `Branches`, and wait for them at the end, even if the block fails, but not if it is interrupted.

    Raises:
        Exception: the error of the first failed branch.
    """
    branches = Branches(n_at_once)
    try:
        yield branches
    except Exception:
        branches.wait()
        raise
    branches.wait()
    branches.raise_failed()
