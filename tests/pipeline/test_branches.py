"""Concurrent branches of a chain: order, failures and number of places."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, Event, Timer, current_thread
from typing import Any

import pytest

from cache.errors import SevilaError
from pipeline.engine.branches import as_one, branching

TIMEOUT_SECONDS = 60


def branch(work: Callable[[], Any]) -> Callable[[Callable[[], object]], Any]:
    def run(on_start: Callable[[], object]) -> Any:
        on_start()
        return work()

    return run


def test_branches_run_concurrently() -> None:
    meeting = Barrier(2)
    with branching(lambda: 2) as branches:
        both = [branches.start(branch(lambda: meeting.wait(TIMEOUT_SECONDS))) for _ in range(2)]
        assert {each.result(TIMEOUT_SECONDS) for each in both} == {0, 1}


def test_a_branch_starts_when_a_place_is_free() -> None:
    release = Event()
    with branching(lambda: 2) as branches:
        held = [branches.start(branch(lambda: release.wait(TIMEOUT_SECONDS))) for _ in range(2)]
        Timer(0.2, release.set).start()
        third = branches.start(branch(lambda: [each.done() for each in held]))
        assert any(third.result(TIMEOUT_SECONDS))


def test_a_single_place_runs_branches_in_the_calling_thread() -> None:
    with branching(lambda: 1) as branches:
        thread = branches.start(branch(lambda: current_thread().name))
        assert thread.done() and thread.result() == current_thread().name


def test_a_failed_branch_prevents_new_ones_and_running_ones_finish() -> None:
    failed, finished = Event(), []

    def fail() -> None:
        failed.set()
        raise SevilaError("of the first")

    def work() -> None:
        failed.wait(TIMEOUT_SECONDS)
        finished.append("second")

    with pytest.raises(SevilaError, match="of the first"), branching(lambda: 3) as branches:
        second = branches.start(branch(work))
        first = branches.start(branch(fail))
        first.exception(TIMEOUT_SECONDS)
        branches.start(branch(lambda: finished.append("third")))
    assert second.done() and finished == ["second"]


def test_a_failure_of_a_branch_or_of_the_chain_is_raised_after_all_branches_finished() -> None:
    def fail() -> None:
        raise SevilaError("of the branch")

    with pytest.raises(SevilaError, match="of the branch"), branching(lambda: 2) as branches:
        branches.start(branch(fail))

    started, finished = Event(), []

    def work() -> None:
        started.wait(TIMEOUT_SECONDS)
        finished.append(1)

    with pytest.raises(SevilaError, match="of the chain"), branching(lambda: 2) as branches:
        branches.start(branch(work))
        started.set()
        raise SevilaError("of the chain")
    assert finished == [1]


def test_a_plain_step_runs_a_branch_with_itself() -> None:
    def step(*inputs: Any, **config: Any) -> Any: ...

    assert as_one(step, "uniform", (), lambda given: given is step).result()
