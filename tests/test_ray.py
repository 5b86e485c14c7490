"""Pieces on a Ray cluster of two nodes, which runs with its server in separate Linux namespaces.

`ray start` listens beyond 127.0.0.1 whatever its options, and `ray stop` ends every Ray process of the host. In the namespaces
`lo` is the only interface, and the kernel ends all remaining processes after the test.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cache.store import Store
from cli import main
from tests.small_world import SMALL, write_small_world
from tests.stages.moment_world import write_world
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
INSIDE = "TEST_RAY_IN_NAMESPACES"  # set in the process inside the namespaces
API, HEAD = "http://127.0.0.1:4200/api", "127.0.0.1:6379"
PATIENCE_SECONDS = 600  # a generous limit for busy machines
RUN = """
import sys
from flows import Execution, Places, sevila_stage
recipe, annotations, videos, weights, store, address = sys.argv[1:]
places = Places(annotations=annotations, videos=videos, weights=weights, store=store)
execution = Execution(dispatch="ray", ray_address=address, shard_megabytes=0.012)
sevila_stage("extract_features", recipe, places=places, execution=execution)
"""
RUN_FULL = """
import sys
from flows import Execution, Places, sevila
recipe, annotations, videos, weights, store, address = sys.argv[1:]
places = Places(annotations=annotations, videos=videos, weights=weights, store=store)
execution = Execution(dispatch="ray", ray_address=address)
sevila(recipe, settings=['chain.selectors=["uniform", "oracle"]'], places=places, execution=execution)
"""


def test_ray_nodes_share_a_stage_and_a_killed_piece_is_built_once(tmp_path: Path) -> None:
    if INSIDE not in os.environ:
        return run_in_namespaces(tmp_path)
    small, store, plain = tmp_path / "small", tmp_path / "store", tmp_path / "plain"
    places = [f"{small / 'questions.csv'}", f"{small / 'videos'}", f"tiny-blip2={small / 'tiny-blip2'}"]
    with cluster(tmp_path) as until:
        write_small_world(small)
        for stage in ("import_backbone", "list_questions", "sample_frames"):
            make(stage, places, store)
        shutil.copytree(store, plain)
        until(lambda: all("--block" in (tmp_path / f"{node}.log").read_text() for node in ("head", "node")))
        run = start(tmp_path, "run", "-c", RUN, SMALL, *places, str(store), HEAD, PREFECT_API_URL=API)
        processes = until(lambda: len(pids := pieces_by_node()) == 2 and pids)
        os.kill(processes.popitem()[1], signal.SIGKILL)
        make("extract_features", places, plain, "--shard-megabytes", "0.012")
        assert run.wait(PATIENCE_SECONDS) == 0, (tmp_path / "run.log").read_text()
        (flow_run,) = request_all("flow_runs/filter")
        (features,) = [id for id in Store(store) if id.startswith("extract_features-")]
        assert flow_run["state"]["message"] == features
        names = {
            run["name"].removeprefix("extract_features (").removesuffix(")") for run in request_all("task_runs/filter")
        }
        states = {task_run["state_type"] for task_run in request_all("task_runs/filter")}
        assert (names, states) == ({features, f"{features} 0", f"{features} 1"}, {"COMPLETED"})
        shown = {artifact["description"]: artifact["data"] for artifact in request_all("artifacts/filter")}
        assert shown[f"extract_features: pieces of {features}"] == 100.0
        lines = [line["message"].partition(" done in ")[0] for line in request_all("logs/filter")]
        for shard in (1, 2):
            assert lines.count(f"extract_features: shard {shard} of 2") == 1
        assert Store(store).record(features).files == Store(plain).record(features).files


def test_independent_settings_run_concurrently_on_ray_nodes(tmp_path: Path) -> None:
    if INSIDE not in os.environ:
        return run_in_namespaces(tmp_path)
    world, store = tmp_path / "world", tmp_path / "store"
    write_world(world)
    places = [f"{world / 'questions.jsonl'}", f"{world / 'videos'}", f"tiny-blip2={world / 'tiny-blip2'}"]
    with cluster(tmp_path):
        recipe = str(world / "full.toml")
        run = start(tmp_path, "run", "-c", RUN_FULL, recipe, *places, str(store), HEAD, PREFECT_API_URL=API)
        assert run.wait(PATIENCE_SECONDS) == 0, (tmp_path / "run.log").read_text()
        runs = {run["name"]: run for run in request_all("flow_runs/filter")}
        assert runs["oracle"]["start_time"] < runs["uniform"]["end_time"]
        assert {run["state_type"] for run in runs.values()} == {"COMPLETED"}
    assert sum(id.startswith("finetune_answerer-") for id in Store(store)) == 2


def run_in_namespaces(folder: Path) -> None:
    """Run the current test again in new namespaces."""
    if shutil.which("unshare") is None:
        pytest.skip("needs Linux namespaces: `unshare` is not installed")
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"needs namespaces for network and processes: {probe.stderr.strip()}")
    prefixes = ("PYTEST_", "PREFECT_", "SEVILA_", "RAY_")  # settings of the user who runs the tests
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | {INSIDE: "1"}
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", f"{folder / 'inside'}"]
    command = [*UNSHARE, *test, os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0]]
    limit = 2 * PATIENCE_SECONDS
    for _ in range(3):  # Ray's start-up limit of 30 s may be too short on busy cores
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=limit)
        if "timed out during startup" not in done.stdout:
            break
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def cluster(folder: Path) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Start a Prefect server and two Ray nodes with one simulated GPU each; yield a function that waits for a condition."""
    with socket.socket() as any_socket:  # as `ip link set lo up`
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))
    node = ["-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--num-gpus=1"]
    node += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
    node += ["--min-worker-port=0", "--max-worker-port=0"]  # any free port: the nodes share an address
    with ExitStack() as stack:
        short = stack.enter_context(TemporaryDirectory(prefix="ray-"))  # socket paths have at most 107 bytes
        started = [start(folder, "server", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "4200")]
        stack.callback(lambda: terminate(started))

        def until(condition: Callable[[], Any]) -> Any:
            def problem() -> str:
                return "" if all(process.poll() is None for process in started) else logs(folder)

            return wait_until(condition, PATIENCE_SECONDS, 0.2, problem)

        started.append(
            start(folder, "head", *node, "--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={short}")
        )
        until(lambda: listens(6379))
        started.append(start(folder, "node", *node, f"--address={HEAD}", "--dashboard-agent-listen-port=0"))
        until(lambda: listens(4200))
        yield until


def start(folder: Path, name: str, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
    """Start a Python process that writes to `name`.log in the folder."""
    environment = {
        **os.environ,
        **more,
        "PREFECT_HOME": f"{folder / 'prefect'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": f"{REPOSITORY}",  # if the project is not installed
        "OMP_NUM_THREADS": "1",
    }
    with (folder / f"{name}.log").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=REPOSITORY, env=environment, stdout=output, stderr=output
        )


def terminate(started: list[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.terminate()
    for process in started:
        process.wait(PATIENCE_SECONDS)


def logs(folder: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in folder.glob("*.log"))


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def make(stage: str, places: list[str], store: Path, *more: str) -> None:
    pairs = zip(("--annotations", "--videos", "--weights"), places, strict=True)
    options = [word for pair in pairs for word in pair]
    assert main(["stage", stage, SMALL, *options, "--store", str(store), "--device", "cpu", *more]) == 0


def pieces_by_node() -> dict[str, int]:
    """Return the id of the process that executes a piece, by node."""
    pids = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::sevila-piece"):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                pids[parent] = int(folder.name)
        except OSError:  # the process has ended
            continue
    return pids


def request_all(path: str) -> Any:
    """Return all records of one API endpoint."""
    request = urllib.request.Request(f"{API}/{path}", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.load(answer)
