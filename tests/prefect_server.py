"""A `sevila up` server for tests, with its API, workers, runs and logs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.store import Store
from tests.small_world import write_small_world
from tests.stages.moment_world import write_world
from tests.waiting import wait_until
from workers.prefect_api import PrefectApi
from workers.up import FOR_SHELLS, LOG

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

REPOSITORY = Path(__file__).parents[1]
PATIENCE_SECONDS = 900  # a generous limit for busy machines
STOPPING_SECONDS = 60  # of a worker; Prefect's worker sometimes hangs after an interrupt
WORKER = "prefect.worker.name"  # label of a run
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class PrefectServer:
    """A server with its workers (one of pool cpu, two of pool gpu), the store of their runs, and another worker of pool cpu
    that stands for a second host."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.world = folder / "world"
        write_world(self.world)
        self.small = folder / "small"
        write_small_world(self.small)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.api = PrefectApi(self.port)  # the password is known when the server is up
        self.client: SyncPrefectClient  # shared by all threads: a new one takes as long as ten requests
        self.for_shells = folder / "prefect" / FOR_SHELLS
        self.log = folder / "up.log"
        prefixes = ("PREFECT_", "SEVILA_")  # settings of the user who runs the tests
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api.url,
            "PYTHONPATH": str(REPOSITORY),  # if the project is not installed
            "OMP_NUM_THREADS": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "DO_NOT_TRACK": "1",
            "SEVILA_REPORT": "no",
            "SEVILA_ANNOTATIONS": str(self.world / "questions.jsonl"),
            "SEVILA_VIDEOS": str(self.world / "videos"),
            "SEVILA_WEIGHTS": f"tiny-blip2={self.world / 'tiny-blip2'}",
        }

    def all_logs(self) -> str:
        """Return the output of `sevila up` and the log of its server and workers."""
        return self.log.read_text() + (self.for_shells.parent / LOG).read_text()

    def watch(self, deployment: str, run_name: str, **parameters: Any) -> subprocess.Popen[str]:
        """Start a deployment on the command line; the command ends with the run."""
        assignments = [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in parameters.items()
        ]
        pairs = [word for text in assignments for word in ("-p", text)]
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deployment", "run", deployment, *pairs]
        command += ["--watch", "--flow-run-name", run_name]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, deployment: str, run_name: str, **parameters: Any) -> subprocess.CompletedProcess[str]:
        """Run a deployment on the command line to its end."""
        return finished(self.watch(deployment, run_name, **parameters))

    def start(self, deployment: str, run_name: str, **parameters: Any) -> str:
        """Start a deployment through the API, as the UI does, and return the run's id."""
        body = {"name": run_name, "parameters": parameters, "state": {"type": "SCHEDULED"}}
        id = self.request(f"deployments/name/{deployment}")["id"]
        return str(self.request(f"deployments/{id}/create_flow_run", body)["id"])

    def wait_for_end(self, run_name: str, *types: str) -> Any:
        """Wait until a run has ended in one of the given state types (COMPLETED by default) and return its state."""
        self.until(lambda: self.flow_run(run_name)["state"]["type"] in ENDED)
        state = self.flow_run(run_name)["state"]
        assert state["type"] in (types or ("COMPLETED",)), (run_name, state, self.log_lines(run_name))
        return state

    def steps(self, run_name: str) -> list[Any]:
        """Return the task runs of the steps of a run and its settings; the server receives them with a delay."""
        id = self.flow_run(run_name)["id"]
        settings = [node["id"] for node in self.graph(id) if node["label"].startswith("sevila-setting / ")]
        task_runs = self.request("task_runs/filter", {"flow_runs": {"id": {"any_": [id, *settings]}}})
        return [step for step in task_runs if re.search("-v[0-9]+-", step["name"])]  # others stand for submitted runs

    def graph(self, id: str) -> list[Any]:
        """Return the nodes of a run's graph, as its page draws them."""
        return [node for _, node in self.request(f"flow_runs/{id}/graph-v2")["nodes"]]

    def ended_steps(self, run_name: str) -> list[Any]:
        """Wait for the end of all steps of a run that has ended, and return them."""
        self.until(lambda: all(step["end_time"] for step in self.steps(run_name)))
        return self.steps(run_name)

    def process_of(self, flow_run: Any) -> int:
        """Return the id of the process that executes a run."""
        return int(flow_run["infrastructure_pid"].rsplit(":", 1)[-1])

    def process_of_worker(self, name: str) -> int:
        """Return the process id of a worker of this server."""
        address, worker = f"PREFECT_API_URL={self.api.url}".encode(), {b"worker", name.encode()}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # the process has ended
                words, environment = ((folder / file).read_bytes().split(b"\0") for file in ("cmdline", "environ"))
                if worker <= set(words) and address in environment:
                    return int(folder.name)
        raise AssertionError(f"there is no worker {name}")

    def pieces(self, run_id: str) -> list[Any]:
        """Return the runs that a run has submitted to workers."""
        pieces: list[Any] = self.request("flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"pieces-of-{run_id}"]}}})
        return pieces

    @contextmanager
    def up(self) -> Iterator[None]:
        """Keep `sevila up` running during the block, and end it as Ctrl-C does."""
        options = ("--port", str(self.port), "--gpu-workers", "2", "--runs", "6")
        other = ("worker", "start", "--pool", "cpu", "--name", "other", "--limit", "6")
        with self.log.open("wb") as output:

            def start(*command: str) -> subprocess.Popen[bytes]:
                environment = self.environment | {"SEVILA_STORE": str(self.store.root)}
                command = (sys.executable, *command)
                return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output)

            process = start("-m", "cli", "up", *options)
            try:
                self.until(lambda: b"ready: " in self.log.read_bytes() or process.poll() is not None)
                assert process.poll() is None, self.log.read_text()
                self.environment |= self.sourced_environment()
                self.api = PrefectApi(self.port, self.environment["PREFECT_API_AUTH_STRING"])
                worker = start("-m", "prefect", *other)
                try:
                    with self.api.client() as self.client:
                        yield
                finally:
                    worker.terminate()
                    with suppress(subprocess.TimeoutExpired):
                        worker.wait(STOPPING_SECONDS)
                    worker.kill()
                    worker.wait()
            finally:
                process.send_signal(signal.SIGINT)
                assert process.wait(PATIENCE_SECONDS) == 130, self.log.read_text()

    def sourced_environment(self) -> dict[str, str]:
        """Return the environment of a shell that has sourced the file named by `sevila up`."""
        command = ["sh", "-c", '. "$0" && env -0', str(self.for_shells)]
        output = subprocess.run(command, env={}, capture_output=True, text=True, check=True).stdout
        return dict(
            line.split("=", 1) for line in output.split("\0") if not line.startswith(("PWD=", "_=", "SHLVL=")) and line
        )

    @staticmethod
    def until(condition: Callable[[], Any], every_seconds: float = 1.0) -> Any:
        """Call `condition` until its value is true, and return this value."""
        return wait_until(condition, PATIENCE_SECONDS, every_seconds)

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request to the server's API, a POST if there is a body, and return the decoded answer."""
        answer = self.client.request("GET" if body is None else "POST", f"/{path}", json=body)  # type: ignore[arg-type]
        return answer.json() if answer.content else None

    def automations(self) -> list[Any]:
        """Return the automations that `sevila up` created."""
        return [automation for automation in self.request("automations/filter", {}) if "(" not in automation["name"]]

    def copy_automations(self, name: str, **trigger: Any) -> None:
        """Create copies of the automations of `sevila up` with another trigger."""
        for automation in self.automations():
            copy = {"name": f"{automation['name']} ({name})", "actions": automation["actions"]}
            self.request("automations/", copy | {"trigger": automation["trigger"] | trigger})

    def flow_runs(self, name: str) -> list[Any]:
        """Return the flow runs of a name."""
        runs: list[Any] = self.request("flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return runs

    def flow_run(self, name: str) -> Any:
        """Return the only flow run of a name."""
        (run,) = self.flow_runs(name)
        return run

    def artifact(self, key: str) -> str:
        """Return the newest artifact of a key."""
        (artifact,) = self.request("artifacts/latest/filter", {"artifacts": {"key": {"any_": [key]}}})
        return str(artifact["data"])

    def log_lines(self, name: str) -> list[str]:
        """Return the log messages of the runs of a name and of their tasks in order of time."""
        query = {
            "logs": {"flow_run_id": {"any_": [run["id"] for run in self.flow_runs(name)]}},
            "sort": "TIMESTAMP_ASC",
        }
        lines: list[str] = []
        while page := self.request("logs/filter", query | {"offset": len(lines)}):  # at most 200 per answer
            lines += [line["message"] for line in page]
        return lines

    def build_counts(self, *names: str) -> Counter[str]:
        """Count how often each artifact and shard is logged as made by runs; logs arrive after a run's end."""
        lines = [line for name in names for line in self.log_lines(name)]
        return Counter(line.split(" in ")[0] for line in lines if ": made " in line or " done in " in line)


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a command's end."""
    output = process.communicate(timeout=PATIENCE_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, *output)


def workers(flow_runs: list[Any]) -> set[str]:
    """Return the names of the workers of these runs."""
    return {run["labels"][WORKER] for run in flow_runs if WORKER in run["labels"]}


def running(flow_runs: list[Any]) -> list[Any]:
    """Return the runs that a process is executing."""
    return [run for run in flow_runs if run["state"]["type"] == "RUNNING" and run["infrastructure_pid"]]
