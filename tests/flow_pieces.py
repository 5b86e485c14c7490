"""Pieces that runs submit to workers, their failures and retries. test_flows.py runs these tests on its server."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from cache.notes import read_note
from cache.store import Store
from tests.concurrent_flows import HERE, extraction, fill, options, places, run_concurrently, small_disk
from tests.prefect_server import ENDED, PATIENCE_SECONDS, REPOSITORY, WORKER, PrefectServer, workers
from tests.small_world import SMALL


def test_pieces_of_killed_workers_are_resubmitted_without_repeating_finished_shards(
    prefect: PrefectServer, killed_pieces: list[Any]
) -> None:
    worker = killed_pieces[1]["labels"][WORKER]
    assert workers(killed_pieces) == {"gpu-0", "gpu-1"}
    prefect.until(lambda: f"worker {worker} exited (status -9) and is restarted" in prefect.log.read_text())
    (features,) = prefect.wait_for_end("shared")["message"].split()
    assert features.startswith("extract_features-")
    id = prefect.flow_run("shared")["id"]

    def states() -> list[Any]:
        pieces = {piece["id"]: piece for piece in prefect.pieces(id)}
        return [pieces[killed["id"]]["state"] for killed in killed_pieces]

    assert states()[0]["type"] == "CRASHED"
    prefect.until(lambda: states()[1]["type"] == "CRASHED")  # no process waits for it: other workers built the rest
    assert states()[1]["message"] == "no heartbeat for 5 minutes"
    names = {piece["name"] for piece in prefect.pieces(id)}
    shards = prefect.until(lambda: [n for line, n in prefect.build_counts(*names).items() if " done" in line])
    assert shards == [1] * len(shards)


@run_concurrently
def test_a_run_resumes_from_finished_shards_after_a_cancellation(
    prefect: PrefectServer, sampled: Path, folder: Path
) -> None:
    store, other = (Path(shutil.copytree(sampled, folder / name)) for name in ("store", "other"))
    command = [sys.executable, "-m", "cli", "stage", "extract_features", SMALL, *options(prefect.small, other)]
    subprocess.run(command, cwd=REPOSITORY, env=prefect.environment, check=True, capture_output=True)
    space, _, key = next((other / "pool").glob("extract_features-*/*/*")).parts[-3:]
    with Store(store).lock(f"pool/{space}/{key}"):  # one worker waits for this video, the other builds the rest
        id = prefect.start("sevila-stage/rerun", "cancelled", **extraction(prefect, store, shard_megabytes=0.001))
        (plan,) = prefect.until(lambda: [*(store / "partial").glob("extract_features-*/progress/plan.json")])
        prefect.until(lambda: len([*plan.parent.glob("0*.json")]) == len(read_note(plan)["shards"]) - 1)
        prefect.request(f"flow_runs/{id}/set_state", {"state": {"type": "CANCELLING"}})  # the button of the UI
        prefect.wait_for_end("cancelled", "CANCELLED")
        prefect.until(lambda: all(piece["state"]["type"] in ENDED for piece in prefect.pieces(id)))
    states = Counter(piece["state"]["type"] for piece in prefect.pieces(id))
    assert states["CANCELLED"] >= 1 and {*states} <= {"CANCELLED", "COMPLETED"}
    prefect.start("sevila-stage/rerun", "after cancelling", **extraction(prefect, store, dispatch="here"))
    prefect.wait_for_end("after cancelling")
    prefect.until(lambda: sum(" done" in line for line in prefect.build_counts("after cancelling")) == 1)


@run_concurrently
def test_cancelling_a_setting_cancels_its_parent_run(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    long = ['chain.selectors=["uniform"]', "finetune_answerer.epochs=100000"]
    recipe, there = str(prefect.world / "full.toml"), {"store": str(folder / "store")}
    id = prefect.start("sevila/full-chain", "of a setting", recipe=recipe, settings=long, places=there, execution=HERE)

    def training() -> Any:
        settings = [node["id"] for node in prefect.graph(id) if node["label"].startswith("sevila-setting / ")]
        steps = [node for setting in settings for node in prefect.graph(setting) if node["state_type"] == "RUNNING"]
        return settings if any("finetune_answerer" in step["label"] for step in steps) else []

    (setting,) = prefect.until(training)
    prefect.request(f"flow_runs/{setting}/set_state", {"state": {"type": "CANCELLING"}})
    prefect.wait_for_end("of a setting", "CANCELLED")
    prefect.until(lambda: prefect.request(f"flow_runs/{setting}")["state"]["type"] == "CANCELLED")
    assert any("its setting 'uniform' was cancelled" in line for line in prefect.log_lines("of a setting"))


@run_concurrently
def test_a_piece_that_failed_on_a_full_disk_is_resubmitted(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    with small_disk(folder / "disk") as disk:
        store = Path(shutil.copytree(sampled, disk / "store"))
        id = prefect.start("sevila-stage/rerun", "full", **extraction(prefect, store, shard_megabytes=1))
        prefect.until(lambda: prefect.pieces(id))
        filler = fill(disk)
        prefect.until(lambda: any(piece["state"]["name"] == "FailedByMachine" for piece in prefect.pieces(id)))
        filler.unlink()
        prefect.wait_for_end("full")
        prefect.until(lambda: all(piece["state"]["type"] in ENDED for piece in prefect.pieces(id)))
        states = Counter(piece["state"]["name"] for piece in prefect.pieces(id))
        assert states.pop("FailedByMachine") >= 1 and states == {"Completed": 1}


@run_concurrently
def test_a_step_that_failed_on_a_full_disk_is_retried(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    with small_disk(folder / "disk") as disk:
        filler = fill(disk)
        there = places(prefect.small, disk / "store")
        prefect.start(
            "sevila-stage/rerun", "full disk", stage="list_questions", recipe=SMALL, places=there, execution=HERE
        )
        prefect.until(lambda: any(step["state_name"] == "AwaitingRetry" for step in prefect.steps("full disk")))
        filler.unlink()
        prefect.wait_for_end("full disk")
        (step,) = prefect.ended_steps("full disk")
        assert step["state_type"] == "COMPLETED" and step["run_count"] >= 2


@run_concurrently
def test_a_failure_caused_by_bad_input_is_not_retried(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    store = Path(shutil.copytree(sampled, folder / "store"))
    for frames in (store / "pool").glob("sample_frames-*/*/*/*.h5"):
        content = frames.read_bytes()
        frames.write_bytes(content[:-1] + bytes([content[-1] ^ 16]))
    id = prefect.start("sevila-stage/rerun", "damaged", **extraction(prefect, store, shard_megabytes=1))
    reason = prefect.wait_for_end("damaged", "FAILED")["message"]
    assert "sample_frames-" in reason and "--drop" in reason
    assert [piece["state"]["name"] for piece in prefect.pieces(id)] == ["Failed"]
    (step,) = prefect.ended_steps("damaged")
    assert step["state_type"] == "FAILED" and step["run_count"] == 1


@run_concurrently
def test_free_workers_help_a_slow_run_to_decode(prefect: PrefectServer, sampled: Path, folder: Path) -> None:
    code = """
import json, sys
from flows import Execution, Places, sevila_stage
parameters = json.loads(sys.argv[1])
parameters |= {"places": Places(**parameters["places"]), "execution": Execution(**parameters["execution"])}
sevila_stage.with_options(flow_run_name="slow")(**parameters)
"""
    online = {"workers": {"status": {"any_": ["ONLINE"]}}}
    prefect.until(lambda: len(prefect.request("work_pools/cpu/workers/filter", online)) == 2)
    store = Path(shutil.copytree(sampled, folder / "store"))
    parameters = extraction(prefect, store) | {"stage": "sample_frames", "settings": ["sample_frames.frames=6"]}
    parameters["execution"]["shard_megabytes"] = 0.05  # three shards
    command = [sys.executable, "-c", code, json.dumps(parameters)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=prefect.environment, stderr=subprocess.DEVNULL) as slow:
        try:
            run = prefect.until(lambda: prefect.flow_runs("slow"), every_seconds=0.3)[0]
            prefect.until(lambda: prefect.pieces(run["id"]), every_seconds=0.02)
            slow.send_signal(signal.SIGSTOP)
            (helper, *_) = prefect.pieces(run["id"])
            prefect.until(lambda: prefect.build_counts(helper["name"]))
        finally:
            slow.send_signal(signal.SIGCONT)
        assert slow.wait(PATIENCE_SECONDS) == 0
        prefect.wait_for_end("slow")
    assert set(prefect.build_counts("slow", helper["name"]).values()) == {1}
