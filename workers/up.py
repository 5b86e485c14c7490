"""`sevila up`: a Prefect server, the work pools, the deployments and the workers of one machine, until interrupted."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from filelock import FileLock, Timeout

from cache.errors import SevilaError
from cache.store import Store, stores_below
from workers.prefect_api import (
    HOST,
    PATIENCE_SECONDS,
    PrefectApi,
    check_private,
    write_for_shells,
    write_for_user_alone,
)
from workers.processes import HOME, LOG_VARIABLE, PRIVATE, start, stop

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger("sevila")

POLL_SECONDS = 0.5
MIN_LIFE_SECONDS = 30.0  # a worker that exits earlier after a restart is not restarted again
AUTOMATIONS = "automations.yaml"
MAX_REASON_LETTERS = 500  # of the body of an error response
FOR_SHELLS, LOG = "sevila-up.env", "sevila-up.log"  # in Prefect's folder


@dataclass(frozen=True)
class Server:
    """Options of `sevila up`."""

    port: int
    store: Path
    below: Sequence[Path]  # read-only stores layered below `store`
    gpu_workers: int  # 0: one per GPU, at least one
    runs: int  # limit of concurrent runs of pool cpu


def up(options: Server) -> int:
    """Start server and workers, print the URL, and wait; on SIGINT or SIGTERM stop them and return 130.

    Raises:
        SevilaError: Prefect is not installed, the port or Prefect's folder is in use, the store cannot be written, the server
            exits, or a process does not become healthy.
    """
    _check(options.port)
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(home)
    from httpx import HTTPStatusError, TransportError

    try:
        with FileLock(home / "sevila-up.lock").acquire(timeout=0):
            return _up(options, home.absolute() / FOR_SHELLS, home.absolute() / LOG)
    except HTTPStatusError as error:
        response, request = error.response, error.request
        reason = f"{response.status_code} {response.reason_phrase}: {response.text[:MAX_REASON_LETTERS]}"
        raise SevilaError(f"Prefect's server refused {request.method} {request.url}: {reason}") from error
    except TransportError as error:
        raise SevilaError(f"Prefect's server on {HOST}:{options.port} does not answer: {error}") from error
    except Timeout:
        raise SevilaError(
            f"another `sevila up` uses {home}: stop that one, or set PREFECT_HOME to another folder for this one"
        ) from None


def _up(options: Server, for_shells: Path, log_file: Path) -> int:
    store = Store(options.store, [*options.below, *stores_below()])  # raises if a folder is not a store
    options.store.mkdir(parents=True, exist_ok=True)
    if not os.access(options.store, os.W_OK):
        raise SevilaError(f"the store {options.store} cannot be written: --store, or SEVILA_STORE, names another place")
    api = PrefectApi(options.port)
    clients = api.of_clients(os.environ)
    environment = {
        **os.environ,
        **clients,
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2"),
        "SEVILA_STORE": str(store.root),
        "SEVILA_STORE_BELOW": os.pathsep.join(map(str, store.roots[1:])),
    }
    for kind in (signal.SIGINT, signal.SIGTERM):  # shells have `&` jobs ignore SIGINT; service managers send SIGTERM
        signal.signal(kind, _interrupt)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    write_for_user_alone(log_file, "")
    environment[LOG_VARIABLE] = str(log_file)
    print(f"starting Prefect's server and workers; their log is {log_file}", flush=True)
    try:
        server = ("server", "start", "--host", HOST, "--port", str(options.port))
        for database in for_shells.parent.glob("prefect.db*"):  # may be from a server started without our umask
            database.chmod(0o600)
        processes["server"] = start(environment | api.of_server(), *server, umask=PRIVATE)
        workers = _start_all(options, api, environment, processes)
        write_for_shells(for_shells, clients)
        print(f"ready: {api.page} (workers {', '.join(sorted(workers))}); Ctrl-C stops everything")
        print(f"in another terminal: source {shlex.quote(str(for_shells))}")
        print("the page asks for a password: `echo $PREFECT_API_AUTH_STRING` there", flush=True)
        _keep_up(processes, workers)
    except KeyboardInterrupt:
        print("stopping; interrupted runs resume from their finished shards when started again", flush=True)
        return 130
    finally:
        for_shells.unlink(missing_ok=True)
        _stop_all(api, processes)


def _start_all(
    options: Server, api: PrefectApi, environment: Mapping[str, str], processes: dict[str, subprocess.Popen[bytes]]
) -> Mapping[str, Callable[[], Any]]:
    """Wait for the server, register the deployments and start the workers; return by name a function that restarts each."""
    _wait(processes, "the server", lambda: _listens(options.port))
    with api.client() as client:
        _wait(processes, "the server", lambda: client.api_healthcheck() is None)
        _mark_runs_over(client, "a former `sevila up` was killed")
        _prepare(client, environment)
        workers = {
            name: partial(start, environment | extra, *command) for name, (extra, *command) in _workers(options).items()
        }
        begin = datetime.now(UTC)
        processes |= {name: start() for name, start in workers.items()}
        _wait(processes, "the workers", lambda: set(workers) <= _online(client, begin))
    return workers


def _stop_all(api: PrefectApi, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Stop the workers, set their runs to a final state, and stop the server."""
    from httpx import HTTPError

    server = processes.pop("server", None)
    stop(list(processes.values()))
    if server is None:
        return
    if server.poll() is None:
        with suppress(HTTPError), api.client() as client:
            _mark_runs_over(client, "`sevila up` was stopped")
    stop([server])


def _mark_runs_over(client: SyncPrefectClient, why: str) -> None:
    """Set the active runs to Crashed, or Cancelled if they were cancelling: their workers are gone, and reported nothing.

    The automation only sees runs of the present server. A run left Running would hold the benchmark's only slot for ever.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import State, StateType

    types = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    active = FlowRunFilter(state=FlowRunFilterState(type=types))
    while runs := client.read_flow_runs(flow_run_filter=active):  # the server returns 200 at a time
        for run in runs:
            cancelled = run.state_type == StateType.CANCELLING
            state = State[Any](type=StateType.CANCELLED if cancelled else StateType.CRASHED, message=why)
            client.set_flow_run_state(run.id, state, force=True)


def _keep_up(processes: dict[str, subprocess.Popen[bytes]], workers: Mapping[str, Callable[[], Any]]) -> NoReturn:
    """Restart workers that exit; raise `SevilaError` if the server exits, or a worker does right after a restart."""
    restarted_at = dict.fromkeys(workers, 0.0)
    while (status := processes["server"].poll()) is None:
        for name, restart in workers.items():
            if (status := processes[name].poll()) is None:
                continue
            if time.monotonic() - restarted_at[name] < MIN_LIFE_SECONDS:
                raise SevilaError(f"worker {name} exits again and again (status {status}); the rest is stopped")
            log.warning("worker %s exited (status %s) and is restarted", name, status)
            processes[name], restarted_at[name] = restart(), time.monotonic()
        time.sleep(POLL_SECONDS)
    raise SevilaError(f"the server exited (status {status}); the workers are stopped")


def _check(port: int) -> None:
    from importlib.util import find_spec

    if find_spec("prefect") is None:
        raise SevilaError("Prefect is not installed here: pip install -e . in a clone of the project")
    if not (HOME / "prefect.yaml").exists():
        raise SevilaError(f"{HOME}: no prefect.yaml; `sevila up` runs from a clone of the project")
    if _listens(port):
        raise SevilaError(f"port {port} of {HOST} is taken, perhaps by another `sevila up`: stop it, or give --port")


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0


def _prepare(client: SyncPrefectClient, environment: Mapping[str, str]) -> None:
    """Create missing work pools, and create or update automations and deployments as this clone defines them."""
    from prefect.events.schemas.automations import AutomationCore

    pools = {pool.name for pool in client.read_work_pools()}
    for pool in ("cpu", "gpu"):
        if pool not in pools:
            _run(environment, "work-pool", "create", pool, "--type", "process")
    ids = {automation.name: automation.id for automation in client.read_automations()}
    for content in yaml.safe_load((HOME / AUTOMATIONS).read_text())["automations"]:
        automation = AutomationCore.model_validate(content)
        if automation.name in ids:
            client.update_automation(ids[automation.name], automation)
        else:
            client.create_automation(automation)
    _run(environment, "deploy", "--all")


def _workers(options: Server) -> dict[str, tuple[Any, ...]]:
    """Return environment and command of each worker by name: one worker per GPU with limit 1, and one of pool cpu."""
    names = gpus()
    n_workers = options.gpu_workers or max(1, len(names))
    start = ("worker", "start", "--pool")
    workers: dict[str, tuple[Any, ...]] = {"cpu": ({}, *start, "cpu", "--name", "cpu", "--limit", str(options.runs))}
    for number in range(n_workers):
        device = {"CUDA_VISIBLE_DEVICES": names[number % len(names)]} if names else {}
        workers[f"gpu-{number}"] = (device, *start, "gpu", "--name", f"gpu-{number}", "--limit", "1")
    return workers


def gpus() -> list[str]:
    """Return the visible GPUs, as values for CUDA_VISIBLE_DEVICES."""
    import torch

    n_gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(n_gpus))))
    return [name.strip() for name in visible.split(",")][:n_gpus]


def _run(environment: Mapping[str, str], *arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    completed = subprocess.run(
        command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    if completed.returncode != 0:
        raise SevilaError(f"`prefect {' '.join(arguments)}` failed: {completed.stdout}{completed.stderr}")


def _wait(processes: Mapping[str, subprocess.Popen[bytes]], subject: str, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        stopped = [name for name, process in processes.items() if process.poll() is not None]
        if stopped:
            raise SevilaError(f"{', '.join(stopped)} exited while {subject} started; see the end of {LOG}")
        if is_up():
            return
        time.sleep(POLL_SECONDS)
    raise SevilaError(f"{subject} did not become healthy within {PATIENCE_SECONDS:g} s")


def _online(client: SyncPrefectClient, since: datetime) -> set[str]:
    """Return the workers with a heartbeat after `since`: the server lists dead workers as online for some minutes."""
    return {
        worker.name
        for pool in ("cpu", "gpu")
        for worker in client.read_workers_for_work_pool(pool)
        if worker.last_heartbeat_time is not None and worker.last_heartbeat_time >= since
    }


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
