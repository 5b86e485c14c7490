"""How a run handles the runs that it submits to workers, tested without a server."""

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from httpx import Request, Response
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Completed, Crashed, Failed, Running, State

from workers import dispatch, flow_runs, gpu_workers, idle_runs
from workers.piece import GAVE_UP


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
    missing = iter([1, 0])
    monkeypatch.setattr(dispatch, "count_missing", lambda *step: next(missing))
    monkeypatch.setattr(dispatch, "this_run", SimpleNamespace(id="run"))
    make = dispatch.Dispatch({"execution": {"dispatch": "workers"}}).make
    monkeypatch.setattr(dispatch, "this_run", SimpleNamespace(id="setting"))  # a nested flow run executes the step
    stage: Any = SimpleNamespace(name="score_frames", gpu=True, plan=None, artifact_id=lambda *of: "score_frames-v1-0")
    none: Any = None
    assert make(stage, none, none, []) == "artifact"
    assert [options["tags"] for options in submitted] == [["pieces-of-run"]]


@pytest.mark.parametrize("built_before", ["score_frames-v1-0", "extract_features-v2-0"])
def test_an_idle_run_whose_process_is_dead_takes_no_artifact_not_even_the_one_that_it_built(
    monkeypatch: pytest.MonkeyPatch, built_before: str
) -> None:
    monkeypatch.setattr(idle_runs, "TAKE_SECONDS", 0.0)
    idle = Running(name=idle_runs.IDLE, message=built_before)
    inputs: list[Any] = []
    client: Any = SimpleNamespace(
        read_flow_run=lambda run_id: SimpleNamespace(state=idle),
        create_flow_run_input=lambda *given: inputs.append(given),
    )
    assert not idle_runs.hand_over(client, uuid4(), "score_frames-v1-0")
    assert len(inputs) == 1


def test_a_run_that_goes_on_with_the_artifact_that_it_built_has_taken_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_runs, "POLL_SECONDS", 0.0)
    id = "score_frames-v1-0"
    states = iter([Running(name=idle_runs.IDLE, message=id) for _ in range(2)])
    client: Any = SimpleNamespace(
        read_flow_run=lambda run_id: SimpleNamespace(state=next(states)), create_flow_run_input=lambda *given: None
    )
    assert idle_runs.hand_over(client, uuid4(), id)


def test_a_deleted_run_that_stayed_does_not_fail_its_parent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(run_id: Any, *given: Any) -> None:
        asked.append(run_id)
        request = Request("POST", "http://127.0.0.1/api")
        raise PrefectHTTPStatusError("404 Not Found", request=request, response=Response(404, request=request))

    client = SimpleNamespace(create_flow_run_input=refuse)
    monkeypatch.setattr(gpu_workers, "get_client", lambda **options: nullcontext(client))
    workers = gpu_workers.GpuWorkers(lambda *run: uuid4())
    workers._staying += [uuid4(), uuid4()]
    workers.release()
    assert len(asked) == 2


def test_a_step_takes_idle_runs_and_leaves_those_that_are_about_to_end_their_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy, idle, dead = uuid4(), uuid4(), uuid4()
    states = {busy: Running(), dead: Crashed(), idle: Running(name=idle_runs.IDLE)}
    handed_over = []
    monkeypatch.setattr(
        gpu_workers, "states_of", lambda client, run_ids: {run_id: states[run_id] for run_id in run_ids}
    )
    monkeypatch.setattr(
        gpu_workers, "hand_over", lambda client, run_id, id: handed_over.append(run_id) or run_id == idle
    )
    workers = gpu_workers.GpuWorkers(lambda *run: uuid4())
    workers._staying += [busy, dead, idle]
    client: Any = None
    assert workers._hand_over(client, "score_frames-v1-0") == idle and workers._hand_over(client, "none") is None
    assert handed_over == [dead, idle] and workers._staying == [busy]


def test_a_run_that_left_an_unfinished_input_is_submitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Any] = []
    states = iter([Completed(name=GAVE_UP), Completed()])
    monkeypatch.setattr(gpu_workers, "get_client", lambda **options: nullcontext())
    monkeypatch.setattr(gpu_workers, "_n_slots", lambda client: 1)
    monkeypatch.setattr(
        gpu_workers, "_states_when_over", lambda client, waiting, id: dict.fromkeys(waiting, next(states))
    )
    monkeypatch.setattr(gpu_workers, "cancel_scheduled", lambda client, run_ids: [])
    monkeypatch.setattr(gpu_workers, "cancel", lambda client, run_ids: None)
    monkeypatch.setattr(gpu_workers, "STATE_POLL_SECONDS", 0)
    workers = gpu_workers.GpuWorkers(lambda *run: submitted.append(run) or uuid4())  # type: ignore[func-returns-value]
    workers.begin("extract_features-v2-0")
    with workers.connected() as make_all:
        make_all("extract_features-v2-0", 3, Counter(), lambda: 0)
    assert len(submitted) == 2


def test_runs_that_began_on_an_unfinished_input_build_the_pieces_and_are_cancelled_where_nothing_comes_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submitted: list[Any] = []
    cancelled: list[Any] = []

    def submit(*arguments: Any) -> Any:
        submitted.append(uuid4())
        return submitted[-1]

    monkeypatch.setattr(gpu_workers, "get_client", lambda **options: nullcontext())
    monkeypatch.setattr(gpu_workers, "_n_slots", lambda client: 2)
    monkeypatch.setattr(
        gpu_workers, "_states_when_over", lambda client, waiting, id: dict.fromkeys(waiting, Completed())
    )
    monkeypatch.setattr(gpu_workers, "cancel_scheduled", lambda client, run_ids: [])
    monkeypatch.setattr(gpu_workers, "cancel", lambda client, run_ids: cancelled.extend(run_ids))
    monkeypatch.setattr(gpu_workers, "release", lambda client, run_id: None)
    monkeypatch.setattr(gpu_workers, "STATE_POLL_SECONDS", 0)
    workers = gpu_workers.GpuWorkers(submit)
    for id in ("extract_features-v2-0", "extract_features-v2-0", "extract_features-v2-1"):  # the first is tried again
        workers.begin(id)
    assert len(submitted) == 4
    with workers.connected() as make_all:
        make_all("extract_features-v2-0", 3, Counter(), lambda: 0)
    assert len(submitted) == 4 and not cancelled
    workers.release()
    assert cancelled == submitted[2:]
