"""The deployments of prefect.yaml on a temporary `sevila up` server with workers on 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from coolname import generate_slug

from cache.names import named_run
from cache.store import Store
from cli import main
from tests.concurrent_flows import CONCURRENT_TESTS, HERE, extraction, options, places, run_concurrently
from tests.flow_access import *  # noqa: F403 - all tests share one server: starting one takes longer than most tests
from tests.flow_pieces import *  # noqa: F403
from tests.prefect_server import ENDED, REPOSITORY, WORKER, PrefectServer, finished, running
from tests.small_world import SMALL
from tests.stages.runs import as_answered, with_other_weights

pytestmark = pytest.mark.slow

SELECTORS = 'chain.selectors=["refined"]'
STEPS_OF_THE_CHAIN = 27  # of the full chain with one keyframe selector
N_CONCURRENT = 2


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server and workers; the environment of its commands names an unreachable proxy."""
    prefect = PrefectServer(tmp_path_factory.mktemp("flows"))
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))  # not listening
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        prefect.environment |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"), address)
        with prefect.up():
            yield prefect
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{prefect.api.url}/health", trust_env=False)
    assert not prefect.for_shells.exists(), "the password file of the stopped server was not removed"


@pytest.fixture(scope="module")
def sampled(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the small world's frames, and no features yet."""
    store = tmp_path_factory.mktemp("sampled") / "store"
    for stage in ("import_backbone", "list_questions", "sample_frames"):
        assert main(["stage", stage, SMALL, *options(prefect.small, store)]) == 0
    return store


@pytest.fixture(scope="module", autouse=True)
def first(prefect: PrefectServer) -> Iterator[subprocess.Popen[str]]:
    """A run of the full chain, started before all tests; its data paths come from the worker's environment."""
    recipe = str(prefect.world / "full.toml")
    with prefect.watch(
        "sevila/full-chain", "first", recipe=recipe, settings=[SELECTORS], name="nightly", execution=HERE
    ) as process:
        yield process
        process.kill()  # if no test has waited for it


@pytest.fixture(scope="module")
def killed_pieces(
    prefect: PrefectServer, sampled: Path, first: Any, tmp_path_factory: pytest.TempPathFactory
) -> list[Any]:
    """The two pieces of a run, killed before all tests: one alone, the other with its worker.

    A copy of the automation of `sevila up`, with 90 s instead of five minutes, detects the latter.
    """
    store = Path(shutil.copytree(sampled, tmp_path_factory.mktemp("lost") / "store"))
    id = prefect.start("sevila-stage/rerun", "shared", **extraction(prefect, store))
    resource = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.pieces-of-{id}"}
    prefect.copy_automations("shared", within=90, match_related=resource)
    slow = prefect.until(lambda: running(prefect.pieces(id)), every_seconds=0.3)[0]
    os.kill(prefect.process_of(slow), signal.SIGSTOP)  # until another worker has the other piece
    try:
        others = prefect.until(
            lambda: [piece for piece in running(prefect.pieces(id)) if piece["name"] != slow["name"]], every_seconds=0.3
        )
        worker = others[0]["labels"][WORKER]
        os.kill(prefect.process_of_worker(worker), signal.SIGKILL)  # first: it would report the death of the piece
        os.kill(prefect.process_of(others[0]), signal.SIGKILL)
    finally:
        os.kill(prefect.process_of(slow), signal.SIGKILL)
    return [slow, others[0]]


@pytest.fixture(scope="module", autouse=True)
def concurrent_tests(
    prefect: PrefectServer,
    sampled: Path,
    killed_pieces: Any,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[None]]]:
    """Start the bodies of the selected tests that are decorated with `run_concurrently`."""
    selected = {item.name for item in request.session.items}
    with ThreadPoolExecutor(N_CONCURRENT) as threads:
        yield {
            name: threads.submit(body, prefect, sampled, tmp_path_factory.mktemp("concurrent"))
            for name, body in CONCURRENT_TESTS.items()
            if name in selected
        }
        threads.shutdown(wait=False, cancel_futures=True)  # if a test has failed


@pytest.fixture(scope="module")
def first_run(first: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    return finished(first)


@pytest.mark.parametrize(
    ("deployment", "parameter", "value"),
    [
        ("sevila/full-chain", "execution", {"decode_workers": 0}),
        ("sevila/full-chain", "places", {"video": "/data"}),
        ("sevila-stage/rerun", "stage", "score_frame"),
        ("sevila/forward", "recipe", "nextq"),
        ("sevila/forward", "settings", ["select_keyframes.k"]),
    ],
)
def test_a_bad_parameter_is_refused_before_a_run_exists(
    prefect: PrefectServer, deployment: str, parameter: str, value: Any
) -> None:
    with pytest.raises(httpx.HTTPStatusError) as error:  # shown by the UI and by `prefect deployment run`
        prefect.start(deployment, "none", **{parameter: value})
    assert error.value.response.status_code == 409 and parameter in error.value.response.text
    assert prefect.request("flow_runs/filter", {"flow_runs": {"name": {"any_": ["none"]}}}) == []


def test_every_deployment_has_a_description_and_tags(prefect: PrefectServer) -> None:
    for deployment in prefect.request("deployments/filter", {}):
        assert deployment["description"].startswith("# ") and "sevila" in deployment["tags"]
        is_internal = "internal" in deployment["tags"]
        assert (
            is_internal == ("piece" in deployment["tags"]) == deployment["description"].startswith("# Not for people")
        )
        if not is_internal:
            assert "```bash\n prefect deployment run " in deployment["description"]


def test_automations_for_vanished_runs_are_enabled(prefect: PrefectServer) -> None:
    automations = prefect.automations()
    after = {event for automation in automations for event in automation["trigger"]["after"] if automation["enabled"]}
    states = ("Running", "heartbeat", "Pending", "Submitting", "InfrastructurePending", "Cancelling")
    assert after == {f"prefect.flow-run.{state}" for state in states}


def test_the_nightly_schedule_plans_future_runs(prefect: PrefectServer) -> None:
    nightly = prefect.request("deployments/name/sevila-benchmark/nightly")
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}, "deployment_id": {"any_": [nightly["id"]]}}}
    assert prefect.until(lambda: prefect.request("flow_runs/count", planned)) >= 3
    runs = [run for run in prefect.request("flow_runs/filter", planned) if run["auto_scheduled"]]
    starts = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    assert {start.astimezone(UTC).strftime("%H:%M") for start in starts} == {"03:00"}
    assert len({start.date() for start in starts}) == len(starts)
    assert [schedule["schedule"]["timezone"] for schedule in nightly["schedules"]] == ["UTC"]


def test_the_deployment_runs_the_full_chain(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    assert first_run.returncode == 0, first_run.stdout + first_run.stderr
    state = prefect.flow_run("first")["state"]
    assert state["type"] == "COMPLETED"
    assert prefect.store.record(state["message"].removeprefix("metrics ")).kind == "metrics"
    named = named_run(prefect.store, "nightly")
    assert named.status == "finished" and len({pin.id for pin in named.artifacts}) == STEPS_OF_THE_CHAIN
    assert all(prefect.store.exists(pin.id) for pin in named.artifacts)


def test_every_step_is_a_task_named_by_setting_and_artifact(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    steps = prefect.ended_steps("first")
    names = [step["name"].removesuffix(")").partition(" (") for step in steps]
    assert {id for _, _, id in names} == {pin.id for pin in named_run(prefect.store, "nightly").artifacts}
    assert {
        which.removesuffix(": answer_questions") for which, _, id in names if id.startswith("answer_questions")
    } == {
        "refined Localizer, zero-shot",
        "refined Localizer, zero-shot, voting",
        "refined Localizer, fine-tuned",
    }
    assert {step["state_type"] for step in steps} == {"COMPLETED"}


def test_a_setting_is_one_graph_node_with_edges_from_its_inputs(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    prefect.ended_steps("first")
    graph = prefect.graph(prefect.flow_run("first")["id"])
    (setting,) = [node for node in graph if node["kind"] == "flow-run"]
    assert (setting["label"], setting["state_type"]) == ("sevila-setting / refined Localizer", "COMPLETED")
    steps = prefect.graph(setting["id"])
    assert len(graph) - 1 + len(steps) == STEPS_OF_THE_CHAIN and len(steps) == 12
    labels = {node["id"]: node["label"] for node in graph}
    read = {labels[parent["id"]].rpartition(" (")[0].rpartition(" ")[2] for parent in setting["parents"]}
    trained = {"refine_localizer", "init_answerer", "import_backbone"}
    assert read == trained | {"list_questions", "sample_frames", "extract_features"}
    assert prefect.request(f"flow_runs/{setting['id']}")["parameters"] == {}


def test_run_logs_and_artifacts_show_stages_metrics_and_failed_videos(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    lines = prefect.log_lines("first")
    assert sum(": made " in line for line in lines) == STEPS_OF_THE_CHAIN
    assert any(line.startswith("sample_frames: 1 failed") for line in lines)
    page = prefect.artifact("sevila-full")
    assert "| refined Localizer |" in page and "1 of 3 videos failed" in page
    assert all(f"`{pin.id}`" in page for pin in named_run(prefect.store, "nightly").artifacts)
    assert f"[first](http://127.0.0.1:{prefect.port}" in page and prefect.flow_run("first")["id"] in page
    failed = json.loads(prefect.artifact("sevila-full-failed-videos"))
    assert failed and all(row["reason"] for row in failed)


def test_a_stage_is_rerun_from_stored_inputs(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    before = set(prefect.store)
    prefect.start(
        "sevila-stage/rerun",
        "stage",
        stage="select_keyframes",
        recipe=str(prefect.world / "full.toml"),
        settings=[SELECTORS, "select_keyframes.k=1"],
        execution=HERE,
    )
    prefect.wait_for_end("stage")
    built = set(prefect.store) - before
    assert built and all(id.startswith("select_keyframes-") for id in built)
    assert set(prefect.flow_run("stage")["state"]["message"].split()) >= built
    assert all(f"`{id}`" in prefect.artifact("sevila-full-select-keyframes") for id in built)


def test_independent_settings_run_concurrently_and_are_recorded_in_chain_order(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    recipe, both = str(prefect.world / "full.toml"), 'chain.selectors=["uniform", "oracle"]'
    id = prefect.start("sevila/full-chain", "at once", recipe=recipe, settings=[both], name="at-once")
    prefect.wait_for_end("at once")
    nodes = [node for node in prefect.graph(id) if node["kind"] == "flow-run"]
    runs = {node["label"].rpartition(" / ")[2]: prefect.request(f"flow_runs/{node['id']}") for node in nodes}
    assert set(runs) == {"uniform", "oracle"}
    assert runs["oracle"]["start_time"] < runs["uniform"]["end_time"]
    assert {run["state_type"] for run in runs.values()} == {"COMPLETED"}
    pins = [pin for pin in named_run(prefect.store, "at-once").artifacts if pin.stage == "evaluate"]
    answered = ("zero-shot", "zero-shot, voting", "fine-tuned")
    assert [pin.setting for pin in pins] == [f"{row}, {way}" for row in ("uniform", "oracle") for way in answered]
    assert prefect.flow_run("at once")["state"]["message"] == f"metrics {pins[-1].id}"


def test_cancelling_a_run_cancels_its_concurrent_settings_and_pieces(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    long = ['chain.selectors=["uniform", "oracle"]', "finetune_answerer.epochs=100000"]
    id = prefect.start(
        "sevila/full-chain", "settings cancelled", recipe=str(prefect.world / "full.toml"), settings=long
    )
    trainings = prefect.until(lambda: len(pieces := running(prefect.pieces(id))) == 2 and pieces)
    assert all(piece["name"].startswith("finetune_answerer") for piece in trainings)
    process = prefect.process_of(prefect.flow_run("settings cancelled"))
    prefect.request(f"flow_runs/{id}/set_state", {"state": {"type": "CANCELLING"}})
    prefect.wait_for_end("settings cancelled", "CANCELLED")
    prefect.until(lambda: all(piece["state"]["type"] == "CANCELLED" for piece in prefect.pieces(id)))
    prefect.until(lambda: not Path(f"/proc/{process}").exists())
    settings = [node["id"] for node in prefect.graph(id) if node["label"].startswith("sevila-setting / ")]
    states = [prefect.request(f"flow_runs/{setting}")["state"]["type"] for setting in settings]
    assert states == ["CANCELLED", "CANCELLED"]


@run_concurrently
def test_a_regression_fails_the_nightly_run_and_is_named(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    first, store = Path(shutil.copytree(sampled, folder / "first")), folder / "store"
    assert main(["run", SMALL, *options(prefect.small, first)]) == 0
    world = as_answered(prefect.small, first, folder / "right")
    assert main(["run", SMALL, *options(world, store)]) == 0
    matrix = folder / "nights.toml"
    tolerance = "tolerance = {throughput_percent = 99.9, peak_memory_percent = 1e6}"
    matrix.write_text(f'{tolerance}\n[recipes."{SMALL}"]\nchosen = []\n')
    nightly = "sevila-benchmark/nightly"
    default_name = generate_slug(2)  # as Prefect names a run without a name
    prefect.start(nightly, default_name, matrix=str(matrix), device="cpu", places=places(world, store))
    worse = with_other_weights(world, folder / "worse")
    assert main(["run", SMALL, *options(worse, store)]) == 0
    prefect.until(lambda: prefect.flow_runs("benchmark nights"))
    prefect.wait_for_end("benchmark nights")
    prefect.start(nightly, "second night", matrix=str(matrix), device="cpu", places=places(worse, store))
    state = prefect.wait_for_end("second night", "FAILED")
    assert state["name"] == "Regression"
    assert "regression: small chosen: accuracy" in state["message"]


@run_concurrently
def test_automations_mark_runs_without_a_worker(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    """Uses copies of the automations of `sevila up` with seconds instead of minutes, on runs that no worker executes."""
    deployment = prefect.request("deployments/name/sevila/forward")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    transitions = {"taken": ["PENDING", "SUBMITTING"], "cancelling": ["PENDING", "RUNNING", "CANCELLING"]}
    ids = {
        name: prefect.request(f"deployments/{deployment}/create_flow_run", {"name": name, "state": later})["id"]
        for name in transitions
    }
    for name, id in ids.items():
        prefect.copy_automations(name, within=10, match={"prefect.resource.id": f"prefect.flow-run.{id}"})
    time.sleep(30)  # until even a busy server has loaded them: it ignores earlier events
    for name, states in transitions.items():
        for state in states:
            new_state = {"type": "PENDING", "name": "Submitting"} if state == "SUBMITTING" else {"type": state}
            prefect.request(f"flow_runs/{ids[name]}/set_state", {"state": new_state})
    assert prefect.wait_for_end("taken", "CRASHED")["message"] == "not begun within 90 minutes"
    assert prefect.wait_for_end("cancelling", "CANCELLED")["message"] == "it could not be cancelled within 5 minutes"


@run_concurrently
def test_two_concurrent_runs_share_work_and_pages_escape_question_types(
    prefect: PrefectServer, sampled: Path, folder: Path
) -> None:
    world, store, names = shutil.copytree(prefect.small, folder / "world"), Store(folder / "store"), ("one", "other")
    table = (world / "questions.csv").read_text()
    table = table.replace(",colour\n", ",<img src=x onerror=alert(1)>|[a](javascript:b)\n")
    (world / "questions.csv").write_text(table)
    execution = HERE | {"shard_megabytes": 0.05}
    for name in names:
        prefect.start("sevila/forward", name, recipe=SMALL, places=places(world, store.root), execution=execution)
    assert len({prefect.wait_for_end(name)["message"] for name in names}) == 1

    prefect.until(lambda: sum(": made " in line for line in prefect.build_counts(*names)) == len(list(store)))
    assert set(prefect.build_counts(*names).values()) == {1}, prefect.build_counts(*names)
    page = prefect.artifact("sevila-small")
    assert r"\<img src=x onerror=alert(1)\>\|\[a\](javascript:b)" in page and "<img" not in page.replace(r"\<img", "")


@run_concurrently
def test_a_bad_setting_fails_the_run_with_the_reason_in_its_log(
    prefect: PrefectServer, sampled: Path, folder: Path
) -> None:
    prefect.start("sevila/full-chain", "bad", settings=["select_keyframes.kk=4"])
    reason = "[select_keyframes] has no key 'kk' (did you mean 'k'?)"
    assert reason in prefect.wait_for_end("bad", "FAILED")["message"]
    prefect.until(lambda: any(reason in line for line in prefect.log_lines("bad")))


@run_concurrently
def test_library_warnings_are_in_the_run_log_once(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    code = """
import logging, threading, warnings
from prefect import flow
import transformers
from workers.pages import logs_in_run_log

@flow(flow_run_name="warned")
def warned():
    with logs_in_run_log(print):
        warnings.warn("of Python")
        transformers.logging.get_logger("transformers.models").warning("of transformers")
        thread = threading.Thread(target=logging.getLogger("h5py").warning, args=("of a thread",))
        thread.start()
        thread.join()
        logging.getLogger("h5py").info("below the level")

warned()
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, env=prefect.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.splitlines()[0].rpartition(": ")[2] for line in prefect.log_lines("warned")]
    assert lines[1:-1] == ["of Python", "of transformers", "of a thread"]


def test_a_gpu_worker_keeps_its_process_for_all_steps_of_a_run(
    prefect: PrefectServer, sampled: Path, tmp_path: Path
) -> None:
    """Runs last: a run does not keep a worker while another run waits for one."""
    there = places(prefect.small, Path(shutil.copytree(sampled, tmp_path / "store")))
    id = prefect.start("sevila/forward", "stays", recipe=SMALL, places=there, execution={"dispatch": "workers"})
    prefect.wait_for_end("stays")
    (piece,) = prefect.until(lambda: [run for run in prefect.pieces(id) if run["state"]["type"] in ENDED])
    assert piece["state"]["type"] == "COMPLETED" and piece["name"].startswith("answer_questions-")
    submitted = [line for line in prefect.log_lines("stays") if "is handed out in pieces" in line]
    assert {line.partition(":")[0] for line in submitted} == {"extract_features", "score_frames", "answer_questions"}


def test_a_step_goes_to_another_run_if_the_idle_one_is_killed(
    prefect: PrefectServer, sampled: Path, tmp_path: Path
) -> None:
    there = places(prefect.small, Path(shutil.copytree(sampled, tmp_path / "store")))
    id = prefect.start("sevila/forward", "idle killed", recipe=SMALL, places=there, execution={"dispatch": "workers"})
    (idle,) = prefect.until(
        lambda: [run for run in prefect.pieces(id) if run["state"]["name"] == "Idle"], every_seconds=0.1
    )
    os.kill(prefect.process_of(idle), signal.SIGKILL)
    prefect.wait_for_end("idle killed")
    states = {run["id"]: run["state"]["type"] for run in prefect.pieces(id)}
    assert states.pop(idle["id"]) == "CRASHED" and states


def test_gpu_workers_encode_finished_shards_while_other_videos_are_still_sampled(
    prefect: PrefectServer, sampled: Path, tmp_path: Path
) -> None:
    store, execution = tmp_path / "store", {"dispatch": "workers", "shard_megabytes": 0.01}
    space, _, key = next((sampled / "pool").glob("sample_frames-*/*/*")).parts[-3:]
    with Store(store).lock(f"pool/{space}/{key}"):  # sampling waits for this video
        prefect.start("sevila/forward", "ahead", recipe=SMALL, places=places(prefect.small, store), execution=execution)
        encoded = prefect.until(lambda: [*(store / "pool").glob("extract_features-*/*/*/*.json")])
        assert not [id for id in Store(store) if id.startswith("sample_frames-")]
        written = {note: note.stat().st_mtime_ns for note in encoded}
    prefect.wait_for_end("ahead")
    assert {note: note.stat().st_mtime_ns for note in encoded} == written
