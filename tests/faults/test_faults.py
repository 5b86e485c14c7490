"""The fault tests at a small size; `make reliability` runs them at full size and writes docs/reliability.md."""

from pathlib import Path

import pytest

from tests.faults.disks import forbidden, mount_problem
from tests.faults.kinds import KINDS, Kind
from tests.faults.trials import run_trials
from tests.faults.world import Trial

A_FEW = {"clock": 2, "operation": 2, "full": 1, "videos": 1000}


@pytest.mark.slow
def test_no_fault_loses_corrupts_or_rebuilds_content(tmp_path: Path) -> None:
    can_mount = not mount_problem()  # root only
    counts = [(kind, A_FEW[kind.name]) for kind in KINDS if kind.name in A_FEW and (can_mount or kind.of != "disks")]
    tallies = run_trials(counts, seed=0, folder=tmp_path)
    assert [message for tally in tallies.values() for message in tally.messages] == []
    assert all(tally.tried == tally.survived > 0 for tally in tallies.values())


def until_forbidden(trial: Trial) -> None:
    while not trial.is_done:
        forbidden(trial)


@pytest.mark.slow
@pytest.mark.skipif(bool(mount_problem()), reason="only root can give a store to another user")
def test_a_run_survives_losing_store_permissions_during_a_stage(tmp_path: Path) -> None:
    kind = Kind("forbidden", "", until_forbidden, "", "disks")
    tally = run_trials([(kind, 3)], seed=0, folder=tmp_path)["forbidden"]
    assert tally.messages == [] and tally.survived == tally.tried == 3
    assert [place for place in tally.where if place != "forbidden, in between stages"]
    assert all(place.startswith("forbidden, in ") for place in tally.where)
