"""The deployment of prefect.yaml on a real server and a real worker, both on 127.0.0.1 and gone afterwards."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cache.names import named_run
from cache.store import Store
from tests.stages.moment_world import write_world

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
SELECTORS = 'chain.selectors=["refined"]'
STEPS_OF_THE_CHAIN = 27  # of the full chain with this one choice of keyframes
PATIENCE_SECONDS = 120


class Prefect:
    """A running Prefect server with the deployment, a worker for it, and the store that its runs fill."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.world = folder / "world"
        write_world(self.world)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.api = f"http://127.0.0.1:{self.port}/api"
        ours = ("PREFECT_", "SEVILA_")  # of whoever runs the tests
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",  # 10 by default: most of a small run's time
            "PYTHONPATH": str(REPOSITORY),  # when the project is not installed
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `prefect` command to its end."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    @contextmanager
    def background(self, log: Path, *arguments: str, **more_environment: str) -> Iterator[None]:
        """Keep a `prefect` command running during the block."""
        command = [sys.executable, "-m", "prefect", *arguments]
        environment = self.environment | more_environment
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output)
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def ask(self, path: str, question: dict[str, Any] | None = None) -> Any:
        """Ask the server's API."""
        body = None if question is None else json.dumps(question).encode()
        request = urllib.request.Request(f"{self.api}/{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wait_until_up(self) -> None:
        """Return when the server answers."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.ask("health")
                return
            except OSError:
                assert time.monotonic() < give_up, "the server did not start"
                time.sleep(0.3)

    def flow_run(self, name: str) -> Any:
        """Return what the server knows of a flow run."""
        (found,) = self.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return found

    def log_lines(self, name: str) -> list[str]:
        """Return the messages in a flow run's log, those of its tasks included, in order of time."""
        wanted = {"logs": {"flow_run_id": {"any_": [self.flow_run(name)["id"]]}}, "sort": "TIMESTAMP_ASC"}
        lines: list[str] = []
        while page := self.ask("logs/filter", wanted | {"offset": len(lines)}):  # the server gives 200 at most
            lines += [line["message"] for line in page]
        return lines


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("flows")
    prefect = Prefect(folder)
    server = ("server", "start", "--host", "127.0.0.1", "--port", str(prefect.port))
    with prefect.background(folder / "server.log", *server):
        prefect.wait_until_up()
        for arguments in (("work-pool", "create", "sevila", "--type", "process"), ("deploy", "--all")):
            done = prefect.command(*arguments)
            assert done.returncode == 0, done.stdout + done.stderr
        places = {
            "SEVILA_STORE": str(prefect.store.root),
            "SEVILA_ANNOTATIONS": str(prefect.world / "questions.jsonl"),
            "SEVILA_VIDEOS": str(prefect.world / "videos"),
            "SEVILA_WEIGHTS": f"tiny-blip2={prefect.world / 'tiny-blip2'}",
        }
        with prefect.background(folder / "worker.log", "worker", "start", "--pool", "sevila", **places):
            yield prefect


@pytest.fixture(scope="module")
def first_run(prefect: Prefect) -> subprocess.CompletedProcess[str]:
    """A full chain, trainings included; the worker's environment says where its data lie."""
    return prefect.command(
        *("deployment", "run", "sevila/full-chain", "--watch", "--flow-run-name", "first"),
        *(
            "-p",
            f"recipe={prefect.world / 'full.toml'}",
            "-p",
            f"settings={json.dumps([SELECTORS])}",
            "-p",
            "name=nightly",
        ),
    )


def test_deployment_runs_the_whole_chain_into_the_store(
    prefect: Prefect, first_run: subprocess.CompletedProcess[str]
) -> None:
    assert first_run.returncode == 0, first_run.stdout + first_run.stderr
    artifacts = list(prefect.store)
    assert len(artifacts) == STEPS_OF_THE_CHAIN
    state = prefect.flow_run("first")["state"]
    assert state["type"] == "COMPLETED"
    assert prefect.store.record(state["message"].removeprefix("metrics ")).kind == "metrics"
    named = named_run(prefect.store, "nightly")
    assert named.status == "finished" and {pin.id for pin in named.artifacts} == set(artifacts)


def test_every_step_is_a_task_whose_run_has_the_name_of_its_artifact_and_says_which_step_it_is(
    prefect: Prefect, first_run: subprocess.CompletedProcess[str]
) -> None:
    flow_run = {"flow_runs": {"id": {"any_": [prefect.flow_run("first")["id"]]}}}
    task_runs = prefect.ask("task_runs/filter", flow_run)
    names = [task_run["name"].partition(" ") for task_run in task_runs]
    assert sorted(id for id, _, _ in names) == sorted(prefect.store)
    assert {setting for id, _, setting in names if id.startswith("answer_questions")} == {
        "refined Localizer, zero-shot",
        "refined Localizer, zero-shot, voting",
        "refined Localizer, fine-tuned",
    }
    assert {task_run["state_type"] for task_run in task_runs} == {"COMPLETED"}


def test_stage_lines_are_in_the_run_log_and_the_metrics_in_an_artifact(
    prefect: Prefect, first_run: subprocess.CompletedProcess[str]
) -> None:
    lines = prefect.log_lines("first")
    assert sum(": made " in line for line in lines) == STEPS_OF_THE_CHAIN
    assert any(line.startswith("sample_frames: 1 failed") for line in lines)
    shown = prefect.ask("artifacts/latest/filter", {"artifacts": {"key": {"any_": ["sevila-full"]}}})
    assert "refined Localizer" in shown[0]["data"] and "1 of 3 videos failed" in shown[0]["data"]


def test_second_run_with_the_same_data_named_by_parameters_makes_nothing(
    prefect: Prefect, first_run: subprocess.CompletedProcess[str]
) -> None:
    world = prefect.world
    before = set(prefect.store)
    done = prefect.command(
        *("deployment", "run", "sevila/full-chain", "--watch", "--flow-run-name", "second"),
        *("-p", f"recipe={world / 'full.toml'}", "-p", f"settings={json.dumps([SELECTORS, 'select_keyframes.k=2'])}"),
        *("-p", "batch_tokens=8192", "-p", "seed=0"),
        *("-p", f"annotations={world / 'questions.jsonl'}", "-p", f"videos={world / 'videos'}"),
        *("-p", f"weights=tiny-blip2={world / 'tiny-blip2'}", "-p", f"store={prefect.store.root}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(prefect.store) == before
    lines = prefect.log_lines("second")
    assert sum(": reused " in line for line in lines) == STEPS_OF_THE_CHAIN
    assert not any(": made " in line for line in lines)


def test_bad_recipe_fails_the_watched_run_and_the_log_says_why(prefect: Prefect) -> None:
    done = prefect.command(
        *("deployment", "run", "sevila/full-chain", "--watch", "--flow-run-name", "bad"),
        *("-p", 'settings=["select_keyframes.kk=4"]'),
    )
    assert done.returncode == 1
    reason = "[select_keyframes] has no key 'kk' (did you mean 'k'?)"
    state = prefect.flow_run("bad")["state"]
    assert state["type"] == "FAILED" and reason in state["message"]
    assert any(reason in line for line in prefect.log_lines("bad"))


def test_parameter_out_of_bounds_is_refused_before_a_run_exists(prefect: Prefect) -> None:
    done = prefect.command(
        "deployment", "run", "sevila/full-chain", "--flow-run-name", "none", "-p", "decode_workers=0"
    )
    assert done.returncode == 1 and "decode_workers" in done.stdout
    assert prefect.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": ["none"]}}}) == []
