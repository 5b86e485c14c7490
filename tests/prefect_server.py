"""`sevila up` as the tests use it: its server's API, its workers and what their runs leave."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.store import Store
from tests.small_world import write_small_world
from tests.stages.moment_world import write_world
from workers.prefect_api import PrefectApi
from workers.up import FOR_SHELLS, LOG

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

REPOSITORY = Path(__file__).parents[1]
PATIENCE_SECONDS = 900  # a limit only, for machines that are busy
STOPPING_SECONDS = 60  # of a worker; Prefect's own hangs now and then where it was interrupted
WORKER = "prefect.worker.name"  # label of a run
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class PrefectServer:
    """What `sevila up` started: a server, its workers (one of pool cpu, two of pool gpu), the store that their runs fill, and
    another worker of pool cpu, as a second host would have."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store")
        self.world = folder / "world"
        write_world(self.world)
        self.small = folder / "small"
        write_small_world(self.small)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.door = PrefectApi(self.port)  # its password is known when the server is up
        self.client: SyncPrefectClient  # of all threads while it is up: each new one costs as much as ten questions
        self.for_shells = folder / "prefect" / FOR_SHELLS
        self.log = folder / "up.log"
        ours = ("PREFECT_", "SEVILA_")  # of whoever runs the tests
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.door.url,
            "PYTHONPATH": str(REPOSITORY),  # when the project is not installed
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
        """Return what `sevila up` has printed, and what its server and workers have said into the file it names."""
        return self.log.read_text() + (self.for_shells.parent / LOG).read_text()

    def watch(self, deployment: str, run_name: str, **parameters: Any) -> subprocess.Popen[str]:
        """Have a deployment run, as people do; the command ends with the run."""
        told = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in parameters.items()]
        pairs = [word for text in told for word in ("-p", text)]
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deployment", "run", deployment, *pairs]
        command += ["--watch", "--flow-run-name", run_name]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, deployment: str, run_name: str, **parameters: Any) -> subprocess.CompletedProcess[str]:
        """The same to its end."""
        return finished(self.watch(deployment, run_name, **parameters))

    def start(self, deployment: str, run_name: str, **parameters: Any) -> str:
        """Have a deployment run, as the UI does, and return the run's id."""
        asked = {"name": run_name, "parameters": parameters, "state": {"type": "SCHEDULED"}}
        id = self.ask(f"deployments/name/{deployment}")["id"]
        return str(self.ask(f"deployments/{id}/create_flow_run", asked)["id"])

    def ended(self, run_name: str, *types: str) -> Any:
        """Wait for the end of a run, which is to be of one of these types, and return its state."""
        self.until(lambda: self.flow_run(run_name)["state"]["type"] in ENDED)
        state = self.flow_run(run_name)["state"]
        assert state["type"] in (types or ("COMPLETED",)), (run_name, state, self.log_lines(run_name))
        return state

    def steps(self, run_name: str) -> list[Any]:
        """Return what the server knows of the steps of a run and its settings; it hears of them a little later."""
        id = self.flow_run(run_name)["id"]
        settings = [node["id"] for node in self.graph(id) if node["label"].startswith("sevila-setting / ")]
        found = self.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [id, *settings]}}})
        return [
            step for step in found if re.search("-v[0-9]+-", step["name"])
        ]  # others stand for runs it has handed out

    def graph(self, id: str) -> list[Any]:
        """Return the nodes of a run's graph, as its page draws them."""
        return [node for _, node in self.ask(f"flow_runs/{id}/graph-v2")["nodes"]]

    def ended_steps(self, run_name: str) -> list[Any]:
        """Wait for the end of all steps of a run that has ended, and return them."""
        self.until(lambda: all(step["end_time"] for step in self.steps(run_name)))
        return self.steps(run_name)

    def process_of(self, flow_run: Any) -> int:
        """Return the process that is at a run."""
        return int(flow_run["infrastructure_pid"].rsplit(":", 1)[-1])

    def process_of_worker(self, name: str) -> int:
        """Return the process of a worker of ours."""
        ours, worker = f"PREFECT_API_URL={self.door.url}".encode(), {b"worker", name.encode()}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile
                words, environment = ((folder / file).read_bytes().split(b"\0") for file in ("cmdline", "environ"))
                if worker <= set(words) and ours in environment:
                    return int(folder.name)
        raise AssertionError(f"there is no worker {name}")

    def pieces(self, run_id: str) -> list[Any]:
        """Return the runs that a run has handed out."""
        found: list[Any] = self.ask("flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"pieces-of-{run_id}"]}}})
        return found

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
                self.environment |= self.sourced()
                self.door = PrefectApi(self.port, self.environment["PREFECT_API_AUTH_STRING"])
                worker = start("-m", "prefect", *other)
                try:
                    with self.door.client() as self.client:
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

    def sourced(self) -> dict[str, str]:
        """Return what a shell has after it has sourced the file that `sevila up` names."""
        command = ["sh", "-c", '. "$0" && env -0', str(self.for_shells)]
        told = subprocess.run(command, env={}, capture_output=True, text=True, check=True).stdout
        return dict(
            line.split("=", 1) for line in told.split("\0") if not line.startswith(("PWD=", "_=", "SHLVL=")) and line
        )

    @staticmethod
    def until(is_so: Callable[[], Any], every_seconds: float = 1.0) -> Any:
        """Wait for something that has to come."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not (found := is_so()):
            assert time.monotonic() < give_up, f"it did not come within {PATIENCE_SECONDS} s"
            time.sleep(every_seconds)
        return found

    def ask(self, path: str, question: dict[str, Any] | None = None) -> Any:
        """Ask the server's API; a question makes it a POST."""
        answer = self.client.request("GET" if question is None else "POST", f"/{path}", json=question)  # type: ignore[arg-type]
        return answer.json() if answer.content else None

    def automations(self) -> list[Any]:
        """Return those of `sevila up`."""
        return [automation for automation in self.ask("automations/filter", {}) if "(" not in automation["name"]]

    def copy_automations(self, name: str, **trigger: Any) -> None:
        """Have the automations of `sevila up` once more, with another trigger."""
        for automation in self.automations():
            copy = {"name": f"{automation['name']} ({name})", "actions": automation["actions"]}
            self.ask("automations/", copy | {"trigger": automation["trigger"] | trigger})

    def flow_runs(self, name: str) -> list[Any]:
        """Return what the server knows of the flow runs of a name."""
        found: list[Any] = self.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        return found

    def flow_run(self, name: str) -> Any:
        """Return what the server knows of the only flow run of a name."""
        (found,) = self.flow_runs(name)
        return found

    def artifact(self, key: str) -> str:
        """Return the newest artifact of a key."""
        (found,) = self.ask("artifacts/latest/filter", {"artifacts": {"key": {"any_": [key]}}})
        return str(found["data"])

    def log_lines(self, name: str) -> list[str]:
        """Return the messages in the logs of the runs of a name, those of their tasks included, in order of time."""
        wanted = {
            "logs": {"flow_run_id": {"any_": [run["id"] for run in self.flow_runs(name)]}},
            "sort": "TIMESTAMP_ASC",
        }
        lines: list[str] = []
        while page := self.ask("logs/filter", wanted | {"offset": len(lines)}):  # the server gives 200 at most
            lines += [line["message"] for line in page]
        return lines

    def made(self, *names: str) -> Counter[str]:
        """Count what the logs of runs say was made, artifacts and shards; they come a little later than a run's end."""
        lines = [line for name in names for line in self.log_lines(name)]
        return Counter(line.split(" in ")[0] for line in lines if ": made " in line or " done in " in line)


def finished(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a command's end."""
    told = process.communicate(timeout=PATIENCE_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, *told)


def workers(flow_runs: list[Any]) -> set[str]:
    """Return the workers that have taken any of these runs."""
    return {run["labels"][WORKER] for run in flow_runs if WORKER in run["labels"]}


def running(flow_runs: list[Any]) -> list[Any]:
    """Return those of these runs that a process is at."""
    return [run for run in flow_runs if run["state"]["type"] == "RUNNING" and run["infrastructure_pid"]]
