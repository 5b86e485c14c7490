"""What a run makes of the ends of the runs that it has handed out, without a server."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.states import Completed, Crashed, State

from workers import dispatch


@pytest.mark.parametrize("second", [Completed(), Crashed()])
def test_workers_that_end_at_once_when_all_is_there_end_the_step(
    monkeypatch: pytest.MonkeyPatch, second: State[Any]
) -> None:
    handed_out = []

    def hand_out(*asked: Any) -> Any:
        handed_out.append(asked)
        return uuid4()

    monkeypatch.setattr(dispatch, "get_client", lambda **options: nullcontext())
    monkeypatch.setattr(dispatch, "_n_runs", lambda client, n_missing: 2)
    monkeypatch.setattr(
        dispatch, "_final_states", lambda client, waiting: list(zip(waiting, [Completed(), second], strict=True))
    )
    monkeypatch.setattr(dispatch, "_cancel_scheduled", lambda client, run_ids: [])
    monkeypatch.setattr(dispatch, "_cancel", lambda client, run_ids: None)
    monkeypatch.setattr(dispatch, "POLL_SECONDS", 0)
    with dispatch._gpu_workers(hand_out) as make_all:
        make_all("extract_features-v2-0", [0, 1, 2], Counter(), lambda: 0)
    assert len(handed_out) == 2


def test_pieces_of_a_settings_step_belong_to_the_run_that_somebody_may_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run_deployment(deployment: str, **how: Any) -> Any:
        asked.append(how)
        return SimpleNamespace(id=uuid4())

    monkeypatch.setattr(dispatch, "run_deployment", run_deployment)
    monkeypatch.setattr(
        dispatch, "_gpu_workers", lambda hand_out: nullcontext(lambda id, *rest: hand_out("gpu", id, id))
    )
    monkeypatch.setattr(dispatch, "create_progress_artifact", lambda *about: None)
    monkeypatch.setattr(dispatch, "build", lambda *step: "made")
    left = iter([[0], []])
    monkeypatch.setattr(dispatch, "pieces", lambda *step: next(left))
    monkeypatch.setattr(dispatch, "this_run", SimpleNamespace(id="run"))
    make = dispatch.Dispatch({"execution": {"dispatch": "workers"}}).make
    monkeypatch.setattr(dispatch, "this_run", SimpleNamespace(id="setting"))  # a flow run within the run does the step
    stage: Any = SimpleNamespace(name="score_frames", gpu=True, plan=None, artifact_id=lambda *of: "score_frames-v1-0")
    none: Any = None
    assert make(stage, none, none, []) == "made"
    assert [how["tags"] for how in asked] == [["pieces-of-run"]]
