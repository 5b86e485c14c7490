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
SHORT_LIFE_SECONDS = 30.0  # of a worker that there is no use in starting again
AUTOMATIONS = "automations.yaml"
REASON_LETTERS = 500  # of an answer that refuses
FOR_SHELLS, LOG = "sevila-up.env", "sevila-up.log"  # in Prefect's folder


@dataclass(frozen=True)
class Server:
    """Options of `sevila up`: the port, the folders of the store and of those below it, how many workers and runs at once."""

    port: int
    store: Path
    below: Sequence[Path]
    gpu_workers: int  # 0: one for each GPU, or one
    runs: int  # that pool cpu does at once


def up(options: Server) -> int:
    """Start everything, print where it is, and stop it when interrupted, returning 130, or when a part of it ends.

    Raises:
        SevilaError: Prefect is not installed, the port or Prefect's folder is another's, the store cannot be written, or a part
            ends or does not become healthy.
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
        answer, asked = error.response, error.request
        reason = f"{answer.status_code} {answer.reason_phrase}: {answer.text[:REASON_LETTERS]}"
        raise SevilaError(f"Prefect's server refused {asked.method} {asked.url}: {reason}") from error
    except TransportError as error:
        raise SevilaError(f"Prefect's server on {HOST}:{options.port} does not answer: {error}") from error
    except Timeout:
        raise SevilaError(
            f"another `sevila up` keeps its runs in {home}: stop that one, or set PREFECT_HOME to a folder of this one's own"
        ) from None


def _up(options: Server, for_shells: Path, log_file: Path) -> int:
    store = Store(options.store, [*options.below, *stores_below()])  # raises where one of the stores is none
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
    for kind in (signal.SIGINT, signal.SIGTERM):  # a shell's `&` ignores the one, a service manager sends the other
        signal.signal(kind, _interrupt)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    write_for_user_alone(log_file, "")
    environment[LOG_VARIABLE] = str(log_file)
    print(f"starting Prefect's server and workers; what they say goes to {log_file}", flush=True)
    try:
        server = ("server", "start", "--host", HOST, "--port", str(options.port))
        for database in for_shells.parent.glob("prefect.db*"):  # of a server that was not started by us
            database.chmod(0o600)
        processes["server"] = start(environment | api.of_server(), *server, umask=PRIVATE)
        workers = _start_all(options, api, environment, processes)
        write_for_shells(for_shells, clients)
        print(f"ready: {api.page} (workers {', '.join(sorted(workers))}); Ctrl-C stops everything")
        print(f"in another terminal: source {shlex.quote(str(for_shells))}")
        print("the page asks for a password: `echo $PREFECT_API_AUTH_STRING` there", flush=True)
        _keep_up(processes, workers)
    except KeyboardInterrupt:
        print("stopping; runs that were at work go on from their finished shards when they are run again", flush=True)
        return 130
    finally:
        for_shells.unlink(missing_ok=True)
        _stop_all(api, processes)


def _start_all(
    options: Server, api: PrefectApi, environment: Mapping[str, str], processes: dict[str, subprocess.Popen[bytes]]
) -> Mapping[str, Callable[[], Any]]:
    """Wait for the server, register this clone's deployments, start the workers; return what starts each of them again."""
    _wait(processes, "the server", lambda: _listens(options.port))
    with api.client() as client:
        _wait(processes, "the server", lambda: client.api_healthcheck() is None)
        _mark_runs_over(client, "a former `sevila up` was killed")
        _prepare(client, environment)
        workers = {
            name: partial(start, environment | own, *command) for name, (own, *command) in _workers(options).items()
        }
        begin = datetime.now(UTC)
        processes |= {name: start() for name, start in workers.items()}
        _wait(processes, "the workers", lambda: set(workers) <= _online(client, begin))
    return workers


def _stop_all(api: PrefectApi, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Stop the workers, mark their runs, and stop the server."""
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
    """Mark the runs of workers that are no more: they do not say so, and the automation forgets runs of another server's time.

    One that stays running for ever would keep the only slot of the nightly benchmark.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import State, StateType

    at_work = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    wanted = FlowRunFilter(state=FlowRunFilterState(type=at_work))
    while runs := client.read_flow_runs(flow_run_filter=wanted):  # the server names 200 at a time
        for run in runs:
            cancelled = run.state_type == StateType.CANCELLING
            state = State[Any](type=StateType.CANCELLED if cancelled else StateType.CRASHED, message=why)
            client.set_flow_run_state(run.id, state, force=True)


def _keep_up(processes: dict[str, subprocess.Popen[bytes]], workers: Mapping[str, Callable[[], Any]]) -> NoReturn:
    """Start workers again that end, for the runs that are due at night; without the server, or if they do not live, raise."""
    since = dict.fromkeys(workers, 0.0)
    while (status := processes["server"].poll()) is None:
        for name, again in workers.items():
            if (status := processes[name].poll()) is None:
                continue
            if time.monotonic() - since[name] < SHORT_LIFE_SECONDS:
                raise SevilaError(f"worker {name} ends again and again (status {status}); the rest is stopped")
            log.warning("worker %s ended by itself (status %s) and is started again", name, status)
            processes[name], since[name] = again(), time.monotonic()
        time.sleep(POLL_SECONDS)
    raise SevilaError(f"the server ended by itself (status {status}); the workers are stopped")


def _check(port: int) -> None:
    from importlib.util import find_spec

    if find_spec("prefect") is None:
        raise SevilaError("Prefect is not installed here: pip install -e . in a clone of the project")
    if not (HOME / "prefect.yaml").exists():
        raise SevilaError(f"{HOME}: no prefect.yaml; `sevila up` runs from a clone of the project")
    if _listens(port):
        raise SevilaError(f"port {port} of {HOST} is taken: another `sevila up`? Stop that one, or take --port")


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((HOST, port)) == 0


def _prepare(client: SyncPrefectClient, environment: Mapping[str, str]) -> None:
    """Make sure of pools, automations and deployments; the latter two become what this clone says, pools stay as they are."""
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
    """Return environment and command of each worker by name: one a GPU, a piece at a time, and one for what needs none."""
    names = gpus()
    n_workers = options.gpu_workers or max(1, len(names))
    start = ("worker", "start", "--pool")
    workers: dict[str, tuple[Any, ...]] = {"cpu": ({}, *start, "cpu", "--name", "cpu", "--limit", str(options.runs))}
    for number in range(n_workers):
        device = {"CUDA_VISIBLE_DEVICES": names[number % len(names)]} if names else {}
        workers[f"gpu-{number}"] = (device, *start, "gpu", "--name", f"gpu-{number}", "--limit", "1")
    return workers


def gpus() -> list[str]:
    """Return the GPUs that are ours to use, as CUDA_VISIBLE_DEVICES takes them; if that is set, no others than those."""
    import torch

    n_gpus = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(n_gpus))))
    return [name.strip() for name in named.split(",")][:n_gpus]


def _run(environment: Mapping[str, str], *arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    if done.returncode != 0:
        raise SevilaError(f"`prefect {' '.join(arguments)}` failed: {done.stdout}{done.stderr}")


def _wait(processes: Mapping[str, subprocess.Popen[bytes]], what: str, is_up: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        stopped = [name for name, process in processes.items() if process.poll() is not None]
        if stopped:
            raise SevilaError(f"{', '.join(stopped)} ended while {what} started; the end of {LOG} says why")
        if is_up():
            return
        time.sleep(POLL_SECONDS)
    raise SevilaError(f"{what} did not become healthy within {PATIENCE_SECONDS:g} s")


def _online(client: SyncPrefectClient, since: datetime) -> set[str]:
    """Return the workers that the server has heard from; those of a former `sevila up` count as online for some minutes."""
    return {
        worker.name
        for pool in ("cpu", "gpu")
        for worker in client.read_workers_for_work_pool(pool)
        if worker.last_heartbeat_time is not None and worker.last_heartbeat_time >= since
    }


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
