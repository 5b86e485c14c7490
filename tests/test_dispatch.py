"""How a run handles the runs that it submits to workers, tested without a server."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.states import Completed, Crashed, Failed, State

from workers import dispatch, flow_runs, gpu_workers


@pytest.mark.parametrize("second", [Completed(), Crashed(), Failed()])
def test_a_step_ends_when_its_workers_end_and_nothing_is_missing(
    monkeypatch: pytest.MonkeyPatch, second: State[Any]
) -> None:
    submitted = []

    def submit(*arguments: Any) -> Any:
        submitted.append(arguments)
        return uuid4()

    monkeypatch.setattr(gpu_workers, "get_client", lambda **options: nullcontext())
    monkeypatch.setattr(gpu_workers, "_n_runs", lambda client, n_missing: 2)
    monkeypatch.setattr(
        gpu_workers,
        "_states_when_over",
        lambda client, waiting, id: dict(zip(waiting, [Completed(), second], strict=True)),
    )
    monkeypatch.setattr(gpu_workers, "cancel_scheduled", lambda client, run_ids: [])
    monkeypatch.setattr(gpu_workers, "cancel", lambda client, run_ids: None)
    monkeypatch.setattr(gpu_workers, "STATE_POLL_SECONDS", 0)
    with gpu_workers.GpuWorkers(submit).connected() as make_all:
        make_all("extract_features-v2-0", 3, Counter(), lambda: 0)
    assert len(submitted) == 2


def test_pieces_of_a_setting_are_tagged_with_the_parent_run(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Any] = []

    def run_deployment(deployment: str, **options: Any) -> Any:
        submitted.append(options)
        return SimpleNamespace(id=uuid4())

    monkeypatch.setattr(flow_runs, "run_deployment", run_deployment)
    monkeypatch.setattr(
        gpu_workers.GpuWorkers,
        "connected",
        lambda workers: nullcontext(lambda id, *rest: workers._submit("gpu", id, id)),
    )
    monkeypatch.setattr(dispatch, "create_progress_artifact", lambda *about: None)
    monkeypatch.setattr(dispatch, "build", lambda *step: "artifact")
    missing = iter([[0], []])
    monkeypatch.setattr(dispatch, "pieces", lambda *step: next(missing))
    monkeypatch.setattr(dispatch, "this_run", SimpleNamespace(id="run"))
    make = dispatch.Dispatch({"execution": {"dispatch": "workers"}}).make
    monkeypatch.setattr(dispatch, "this_run", SimpleNamespace(id="setting"))  # a nested flow run executes the step
    stage: Any = SimpleNamespace(name="score_frames", gpu=True, plan=None, artifact_id=lambda *of: "score_frames-v1-0")
    none: Any = None
    assert make(stage, none, none, []) == "artifact"
    assert [options["tags"] for options in submitted] == [["pieces-of-run"]]
