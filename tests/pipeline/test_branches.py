"""Branches of a chain that are done at once: what stands in which order, what fails, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, Event, Timer, current_thread
from typing import Any

import pytest

from cache.errors import SevilaError
from pipeline.engine.branches import as_one, branching

PATIENCE_SECONDS = 60


def branch(work: Callable[[], Any]) -> Callable[[Callable[[], object]], Any]:
    def do(has_begun: Callable[[], object]) -> Any:
        has_begun()
        return work()

    return do


def test_branches_are_at_work_at_the_same_time() -> None:
    meeting = Barrier(2)
    with branching(lambda: 2) as branches:
        met = [branches.start(branch(lambda: meeting.wait(PATIENCE_SECONDS))) for _ in range(2)]
        assert {each.result(PATIENCE_SECONDS) for each in met} == {0, 1}


def test_a_branch_begins_when_there_is_a_place_for_it() -> None:
    goes_on = Event()
    with branching(lambda: 2) as branches:
        held = [branches.start(branch(lambda: goes_on.wait(PATIENCE_SECONDS))) for _ in range(2)]
        Timer(0.2, goes_on.set).start()
        third = branches.start(branch(lambda: [each.done() for each in held]))
        assert any(third.result(PATIENCE_SECONDS))


def test_with_one_place_a_branch_is_done_before_the_chain_goes_on() -> None:
    with branching(lambda: 1) as branches:
        thread = branches.start(branch(lambda: current_thread().name))
        assert thread.done() and thread.result() == current_thread().name


def test_a_branch_that_fails_begins_no_others_and_those_at_work_are_finished() -> None:
    failed, finished = Event(), []

    def fail() -> None:
        failed.set()
        raise SevilaError("of the first")

    def work() -> None:
        failed.wait(PATIENCE_SECONDS)
        finished.append("second")

    with pytest.raises(SevilaError, match="of the first"), branching(lambda: 3) as branches:
        second = branches.start(branch(work))
        first = branches.start(branch(fail))
        first.exception(PATIENCE_SECONDS)
        branches.start(branch(lambda: finished.append("third")))
    assert second.done() and finished == ["second"]


def test_a_failure_of_the_last_branch_is_raised_at_the_end_and_so_is_the_chains_own_when_others_are_finished() -> None:
    def fail() -> None:
        raise SevilaError("of the branch")

    with pytest.raises(SevilaError, match="of the branch"), branching(lambda: 2) as branches:
        branches.start(branch(fail))

    begun, finished = Event(), []

    def work() -> None:
        begun.wait(PATIENCE_SECONDS)
        finished.append(1)

    with pytest.raises(SevilaError, match="of the chain"), branching(lambda: 2) as branches:
        branches.start(branch(work))
        begun.set()
        raise SevilaError("of the chain")
    assert finished == [1]


def test_a_plain_step_does_a_branch_with_itself() -> None:
    def step(*of: Any, **how: Any) -> Any: ...

    assert as_one(step, "uniform", (), lambda given: given is step).result()
