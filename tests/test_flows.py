"""The deployments of prefect.yaml on the server and workers of `sevila up`, all on 127.0.0.1 and gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache.names import named_run
from cache.store import Store
from cli import main
from tests.prefect_server import ENDED, PATIENCE_SECONDS, REPOSITORY, WORKER, PrefectServer, finished, running, workers
from tests.small_world import SMALL
from tests.stages.runs import as_answered, with_other_weights

pytestmark = pytest.mark.slow

SELECTORS = 'chain.selectors=["refined"]'
STEPS_OF_THE_CHAIN = 27  # of the full chain with this one choice of keyframes
HERE = {"dispatch": "here"}  # what is small enough for one worker is made by the one that has the run


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    folder = tmp_path_factory.mktemp("flows")
    prefect = PrefectServer(folder)
    with prefect.up():
        yield prefect
    with pytest.raises(httpx.ConnectError):
        prefect.ask("health")


AT_A_TIME = 4  # of these; the longest stand first
ACTS: dict[str, Callable[[PrefectServer, Path, Path], None]] = {}


def side_by_side(act: Callable[[PrefectServer, Path, Path], None]) -> Callable[[dict[str, Future[None]]], None]:
    """Make a test of what mostly waits: these run beside each other and the other tests, and each is told in its turn.

    It gets a store that holds the small world's frames, to copy, and an empty folder.
    """

    def test(begun: dict[str, Future[None]]) -> None:
        begun[act.__name__].result()

    ACTS[act.__name__] = act
    test.__name__, test.__doc__ = act.__name__, act.__doc__
    return test


def places(world: Path, store: Path) -> dict[str, str]:
    """Where a copy of the small world, and a store, lie."""
    found = {"annotations": f"{world / 'questions.csv'}", "videos": f"{world / 'videos'}"}
    return found | {"weights": f"tiny-blip2={world / 'tiny-blip2'}", "store": f"{store}"}


def options(world: Path, store: Path) -> list[str]:
    """The same for the command line."""
    return [word for kind, place in places(world, store).items() for word in (f"--{kind}", place)]


@pytest.fixture(scope="module")
def sampled(prefect: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the small world's frames, and no features yet."""
    store = tmp_path_factory.mktemp("sampled") / "store"
    for stage in ("import_backbone", "list_questions", "sample_frames"):
        assert main(["stage", stage, SMALL, *options(prefect.small, store)]) == 0
    return store


@pytest.fixture(scope="module", autouse=True)
def first(prefect: PrefectServer) -> Iterator[subprocess.Popen[str]]:
    """A full chain, trainings included, begun before all tests; the worker's environment says where its data lie."""
    recipe = str(prefect.world / "full.toml")
    with prefect.watch(
        "sevila/full-chain", "first", recipe=recipe, settings=[SELECTORS], name="nightly", execution=HERE
    ) as process:
        yield process
        process.kill()  # where no test has waited for it


@pytest.fixture(scope="module")
def lost(prefect: PrefectServer, sampled: Path, first: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A piece that was killed together with its worker, before all tests: it takes 90 s until that is noticed."""
    store = Path(shutil.copytree(sampled, tmp_path_factory.mktemp("lost") / "store"))
    id = prefect.start("sevila-stage/rerun", "lost", **extraction(prefect, store))
    piece = prefect.until(lambda: running(prefect.pieces(id)), every_seconds=0.3)[0]
    worker = prefect.process_of_worker(piece["labels"][WORKER])
    os.kill(worker, signal.SIGKILL)  # first, as it would tell of the other's death
    os.kill(prefect.process_of(piece), signal.SIGKILL)
    return piece


@pytest.fixture(scope="module", autouse=True)
def begun(
    prefect: PrefectServer,
    sampled: Path,
    lost: Any,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[None]]]:
    """Begin the tests of `side_by_side` that are wanted."""
    wanted = {item.name for item in request.session.items}
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        yield {
            name: threads.submit(act, prefect, sampled, tmp_path_factory.mktemp("act"))
            for name, act in ACTS.items()
            if name in wanted
        }
        threads.shutdown(wait=False, cancel_futures=True)  # where a test has failed


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
    with pytest.raises(httpx.HTTPStatusError) as refused:  # which the pages, and `prefect deployment run`, show
        prefect.start(deployment, "none", **{parameter: value})
    assert refused.value.response.status_code == 409 and parameter in refused.value.response.text
    assert prefect.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": ["none"]}}}) == []


def test_every_deployment_has_a_page_that_says_what_to_do_and_tags(prefect: PrefectServer) -> None:
    for deployment in prefect.ask("deployments/filter", {}):
        assert deployment["description"].startswith("# ") and "sevila" in deployment["tags"]
        if "piece" not in deployment["tags"]:
            assert "```bash\n prefect deployment run " in deployment["description"]


def test_what_marks_runs_that_vanished_is_at_work(prefect: PrefectServer) -> None:
    automations = prefect.ask("automations/filter", {})
    after = {event for automation in automations for event in automation["trigger"]["after"] if automation["enabled"]}
    states = ("Running", "heartbeat", "Pending", "Submitting", "InfrastructurePending", "Cancelling")
    assert after == {f"prefect.flow-run.{state}" for state in states}


def test_the_schedule_has_planned_the_nights_to_come(prefect: PrefectServer) -> None:
    nightly = prefect.ask("deployments/name/sevila-benchmark/nightly")
    planned = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}, "deployment_id": {"any_": [nightly["id"]]}}}
    assert prefect.until(lambda: prefect.ask("flow_runs/count", planned)) >= 3
    runs = [run for run in prefect.ask("flow_runs/filter", planned) if run["auto_scheduled"]]
    starts = [datetime.fromisoformat(run["expected_start_time"]) for run in runs]
    assert {start.astimezone(UTC).strftime("%H:%M") for start in starts} == {"03:00"}
    assert len({start.date() for start in starts}) == len(starts)
    assert [schedule["schedule"]["timezone"] for schedule in nightly["schedules"]] == ["UTC"]


def test_deployment_runs_the_whole_chain_into_the_store(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    assert first_run.returncode == 0, first_run.stdout + first_run.stderr
    state = prefect.flow_run("first")["state"]
    assert state["type"] == "COMPLETED"
    assert prefect.store.record(state["message"].removeprefix("metrics ")).kind == "metrics"
    named = named_run(prefect.store, "nightly")
    assert named.status == "finished" and len({pin.id for pin in named.artifacts}) == STEPS_OF_THE_CHAIN
    assert all(prefect.store.exists(pin.id) for pin in named.artifacts)


def test_every_step_is_a_task_whose_run_has_the_name_of_its_artifact_and_says_which_step_it_is(
    prefect: PrefectServer, first_run: subprocess.CompletedProcess[str]
) -> None:
    steps = prefect.ended_steps("first")
    names = [step["name"].partition(" ") for step in steps]
    assert {id for id, _, _ in names} == {pin.id for pin in named_run(prefect.store, "nightly").artifacts}
    assert {setting for id, _, setting in names if id.startswith("answer_questions")} == {
        "refined Localizer, zero-shot",
        "refined Localizer, zero-shot, voting",
        "refined Localizer, fine-tuned",
    }
    assert {step["state_type"] for step in steps} == {"COMPLETED"}


def test_stage_lines_are_in_the_run_log_and_metrics_and_failed_videos_in_artifacts(
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


def test_a_stage_is_run_again_from_what_the_store_holds(
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
    assert prefect.ended("stage")["type"] == "COMPLETED", prefect.log_lines("stage")
    made = set(prefect.store) - before
    assert made and all(id.startswith("select_keyframes-") for id in made)
    assert set(prefect.flow_run("stage")["state"]["message"].split()) >= made
    assert all(f"`{id}`" in prefect.artifact("sevila-full-select-keyframes") for id in made)


def test_a_worker_that_is_killed_with_its_piece_is_started_again_and_the_piece_handed_out_again(
    prefect: PrefectServer, lost: Any
) -> None:
    worker = lost["labels"][WORKER]
    prefect.until(
        lambda: f"worker {worker} ended by itself (status -9) and is started again" in prefect.log.read_text()
    )
    assert prefect.ended("lost")["type"] == "COMPLETED", prefect.log_lines("lost")
    pieces = prefect.pieces(prefect.flow_run("lost")["id"])
    (crashed,) = [run for run in pieces if run["state"]["type"] != "COMPLETED"]
    assert crashed["id"] == lost["id"] and crashed["state"]["message"] == "no heartbeat for 90 s"
    assert sorted(run["name"] for run in pieces if run is not crashed) == sorted({run["name"] for run in pieces})


@side_by_side
def test_a_regression_fails_the_nightly_run_and_is_named(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    first, store = Path(shutil.copytree(sampled, folder / "first")), folder / "store"
    assert main(["run", SMALL, *options(prefect.small, first)]) == 0
    world = as_answered(prefect.small, first, folder / "right")
    assert main(["run", SMALL, *options(world, store)]) == 0
    matrix = folder / "nights.toml"
    tolerance = "tolerance = {throughput_percent = 99.9, peak_memory_percent = 1e6}"
    matrix.write_text(f'{tolerance}\n[recipes."{SMALL}"]\nchosen = []\n')
    nightly = "sevila-benchmark/nightly"
    prefect.start(nightly, "first night", matrix=str(matrix), device="cpu", places=places(world, store))
    worse = with_other_weights(world, folder / "worse")
    assert main(["run", SMALL, *options(worse, store)]) == 0
    assert prefect.ended("first night")["type"] == "COMPLETED", prefect.log_lines("first night")
    second = prefect.run(nightly, "second night", matrix=str(matrix), device="cpu", places=places(worse, store))
    state = prefect.flow_run("second night")["state"]
    assert second.returncode == 1 and (state["type"], state["name"]) == ("FAILED", "Regression")
    assert "regression: small chosen: accuracy" in state["message"]


@side_by_side
def test_workers_share_a_stage_and_a_killed_one_is_replaced_without_repeating_finished_shards(
    prefect: PrefectServer, sampled: Path, folder: Path
) -> None:
    store = Path(shutil.copytree(sampled, folder / "store"))
    id = prefect.start("sevila-stage/rerun", "shared", **extraction(prefect, store))
    slow = prefect.process_of(prefect.until(lambda: running(prefect.pieces(id)))[0])
    os.kill(slow, signal.SIGSTOP)
    try:
        prefect.until(lambda: workers(prefect.pieces(id)) == {"gpu-0", "gpu-1"})
    finally:
        os.kill(slow, signal.SIGKILL)
    assert prefect.ended("shared")["type"] == "COMPLETED", prefect.log_lines("shared")
    pieces = prefect.pieces(id)
    killed = [run for run in pieces if run["state"]["type"] == "CRASHED"]
    made = [run for run in pieces if run["state"]["type"] == "COMPLETED"]
    assert len(killed) == 1 and len(made) == len({run["name"] for run in made}) == len(pieces) - 1 >= 2
    (features,) = [id for id in Store(store) if id.startswith("extract_features-")]
    assert prefect.flow_run("shared")["state"]["message"] == features


@side_by_side
def test_cancelling_a_run_stops_its_pieces_and_the_next_run_goes_on_from_the_finished_shards(
    prefect: PrefectServer, sampled: Path, folder: Path
) -> None:
    store = Path(shutil.copytree(sampled, folder / "store"))
    # A piece for each video: so many that some are left when the workers hear of it; nobody has to wait for these.
    id = prefect.start("sevila-stage/rerun", "cancelled", **extraction(prefect, store, shard_megabytes=0.001))
    prefect.until(lambda: any(piece["state"]["type"] == "COMPLETED" for piece in prefect.pieces(id)))
    prefect.ask(f"flow_runs/{id}/set_state", {"state": {"type": "CANCELLING"}})  # the button of the UI
    assert prefect.ended("cancelled")["type"] == "CANCELLED"
    prefect.until(lambda: all(piece["state"]["type"] in ENDED for piece in prefect.pieces(id)))
    states = Counter(piece["state"]["type"] for piece in prefect.pieces(id))
    assert states["COMPLETED"] >= 1 and states["CANCELLED"] >= 1 and len(states) == 2
    progress = next((store / "partial").glob("extract_features-*")) / "progress"
    n_finished = len(list(progress.glob("0*.json")))
    prefect.start("sevila-stage/rerun", "after cancelling", **extraction(prefect, store, dispatch="here"))
    assert prefect.ended("after cancelling")["type"] == "COMPLETED"
    n_left = sum(states.values()) - n_finished
    prefect.until(lambda: sum(" done" in line for line in prefect.made("after cancelling")) == n_left)


@side_by_side
def test_a_piece_that_a_full_disk_fails_is_handed_out_again(
    prefect: PrefectServer, sampled: Path, folder: Path
) -> None:
    with small_disk(folder / "disk") as disk:
        store = Path(shutil.copytree(sampled, disk / "store"))
        id = prefect.start("sevila-stage/rerun", "full", **extraction(prefect, store, shard_megabytes=1))
        prefect.until(lambda: prefect.pieces(id))
        filler = fill(disk)
        prefect.until(lambda: any(piece["state"]["name"] == "FailedByMachine" for piece in prefect.pieces(id)))
        filler.unlink()
        assert prefect.ended("full")["type"] == "COMPLETED"
        states = Counter(piece["state"]["name"] for piece in prefect.pieces(id))
        assert states.pop("FailedByMachine") >= 1 and states == {"Completed": 1}


@side_by_side
def test_a_step_that_a_full_disk_fails_is_tried_again_and_goes_on_when_there_is_room(
    prefect: PrefectServer, sampled: Path, folder: Path
) -> None:
    with small_disk(folder / "disk") as disk:
        filler = fill(disk)
        there = places(prefect.small, disk / "store")
        prefect.start(
            "sevila-stage/rerun", "full disk", stage="list_questions", recipe=SMALL, places=there, execution=HERE
        )
        prefect.until(lambda: any(step["state_name"] == "AwaitingRetry" for step in prefect.steps("full disk")))
        filler.unlink()
        assert prefect.ended("full disk")["type"] == "COMPLETED"
        (step,) = prefect.ended_steps("full disk")
        assert step["state_type"] == "COMPLETED" and step["run_count"] >= 2


@side_by_side
def test_what_bad_input_fails_is_not_tried_again(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    store = Path(shutil.copytree(sampled, folder / "store"))
    for frames in (store / "pool").glob("sample_frames-*/*/*/*.h5"):
        content = frames.read_bytes()
        frames.write_bytes(content[:-1] + bytes([content[-1] ^ 16]))
    id = prefect.start("sevila-stage/rerun", "damaged", **extraction(prefect, store, shard_megabytes=1))
    state = prefect.ended("damaged")
    assert state["type"] == "FAILED" and "sample_frames-" in state["message"] and "--drop" in state["message"]
    assert [piece["state"]["name"] for piece in prefect.pieces(id)] == ["Failed"]
    (step,) = prefect.ended_steps("damaged")
    assert step["state_type"] == "FAILED" and step["run_count"] == 1


@side_by_side
def test_free_workers_help_to_decode_where_a_run_is_slow(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    code = """
import json, sys
from flows import Execution, Places, sevila_stage
asked = json.loads(sys.argv[1])
asked |= {"places": Places(**asked["places"]), "execution": Execution(**asked["execution"])}
sevila_stage.with_options(flow_run_name="slow")(**asked)
"""
    online = {"workers": {"status": {"any_": ["ONLINE"]}}}
    prefect.until(lambda: len(prefect.ask("work_pools/cpu/workers/filter", online)) == 2)
    store = Path(shutil.copytree(sampled, folder / "store"))
    asked = extraction(prefect, store) | {"stage": "sample_frames", "settings": ["sample_frames.frames=6"]}
    asked["execution"]["shard_megabytes"] = 0.05  # three shards
    command = [sys.executable, "-c", code, json.dumps(asked)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=prefect.environment, stderr=subprocess.DEVNULL) as slow:
        try:
            run = prefect.until(lambda: prefect.flow_runs("slow"), every_seconds=0.3)[0]
            prefect.until(lambda: prefect.pieces(run["id"]), every_seconds=0.02)
            slow.send_signal(signal.SIGSTOP)
            (helper, *_) = prefect.pieces(run["id"])
            prefect.until(lambda: prefect.made(helper["name"]))
        finally:
            slow.send_signal(signal.SIGCONT)
        assert slow.wait(PATIENCE_SECONDS) == 0 and prefect.ended("slow")["type"] == "COMPLETED"
    assert set(prefect.made("slow", helper["name"]).values()) == {1}


@side_by_side
def test_runs_that_nobody_begins_or_ends_are_marked(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    """By the automations of sevila up, with seconds for their minutes, on runs that no worker is at."""
    deployment = prefect.ask("deployments/name/sevila/forward")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
    ways = {"taken": ["PENDING", "SUBMITTING"], "cancelling": ["PENDING", "RUNNING", "CANCELLING"]}
    ids = {
        name: prefect.ask(f"deployments/{deployment}/create_flow_run", {"name": name, "state": later})["id"]
        for name in ways
    }
    for automation in prefect.ask("automations/filter", {}):
        for name, id in ids.items():
            trigger = automation["trigger"] | {"within": 10, "match": {"prefect.resource.id": f"prefect.flow-run.{id}"}}
            copy = {"name": f"{automation['name']} ({name})", "trigger": trigger, "actions": automation["actions"]}
            prefect.ask("automations/", copy)
    time.sleep(5)  # until the server has taken them up
    for name, states in ways.items():
        for state in states:
            asked = {"type": "PENDING", "name": "Submitting"} if state == "SUBMITTING" else {"type": state}
            prefect.ask(f"flow_runs/{ids[name]}/set_state", {"state": asked})
    taken, cancelled = prefect.ended("taken"), prefect.ended("cancelling")
    assert (taken["type"], taken["message"]) == ("CRASHED", "not begun within 90 minutes")
    assert (cancelled["type"], cancelled["message"]) == ("CANCELLED", "it could not be cancelled within 5 minutes")


@side_by_side
def test_two_runs_of_a_recipe_at_once_share_the_work(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    store = Store(folder / "store")
    names = ("one", "other")
    execution = HERE | {"shard_megabytes": 0.05}
    for name in names:
        prefect.start(
            "sevila/forward", name, recipe=SMALL, places=places(prefect.small, store.root), execution=execution
        )
    states = [prefect.ended(name) for name in names]
    assert [state["type"] for state in states] == ["COMPLETED", "COMPLETED"]
    assert states[0]["message"] == states[1]["message"]

    prefect.until(lambda: sum(": made " in line for line in prefect.made(*names)) == len(list(store)))
    assert set(prefect.made(*names).values()) == {1}, prefect.made(*names)


@side_by_side
def test_a_bad_setting_fails_the_run_and_the_log_says_why(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    prefect.start("sevila/full-chain", "bad", settings=["select_keyframes.kk=4"])
    state = prefect.ended("bad")
    reason = "[select_keyframes] has no key 'kk' (did you mean 'k'?)"
    assert state["type"] == "FAILED" and reason in state["message"]
    prefect.until(lambda: any(reason in line for line in prefect.log_lines("bad")))


@side_by_side
def test_warnings_of_libraries_are_in_the_run_log_once(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
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
        logging.getLogger("h5py").info("nobody asked")

warned()
"""
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=REPOSITORY, env=prefect.environment, capture_output=True, check=True)
    lines = [line.splitlines()[0].rpartition(": ")[2] for line in prefect.log_lines("warned")]
    assert lines[1:-1] == ["of Python", "of transformers", "of a thread"]


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a file system of its own during the block."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that leaves no room on a disk."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return disk / "filler"


def extraction(
    prefect: PrefectServer, store: Path, dispatch: str = "workers", shard_megabytes: float = 0.012
) -> dict[str, Any]:
    """Return the parameters of a run that extracts the small world's features."""
    return {
        "stage": "extract_features",
        "recipe": SMALL,
        "places": places(prefect.small, store),
        "execution": {"dispatch": dispatch, "shard_megabytes": shard_megabytes},
    }
