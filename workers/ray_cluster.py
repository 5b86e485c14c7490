"""Dispatch of pieces to a Ray cluster through prefect-ray, in one task for each GPU."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from queue import Empty, Queue
from threading import Lock
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from cache.errors import SevilaError
from workers.piece import MAX_ATTEMPTS, PROGRESS_SECONDS, MakeAll, ShowLeft, count_failure, make_pieces, run_name


class RayCluster:
    """A Ray cluster that builds pieces, in tasks with one GPU each if the cluster has GPUs and the run's device is not cpu.

    A task builds one piece after the other with the model it has loaded, until none is missing.

    The nodes need the project installed and the same folders under the same paths: tasks inherit the SEVILA_... variables and
    the working directory of this run. All branches of a run share one connection.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self._n_slots = 0  # tasks in parallel; set on the first connection
        self._request = request
        self._lock, self._n_users = Lock(), 0
        self._runner: Any = None
        self._n_gpus = 0  # per task

    @contextmanager
    def connected(self) -> Iterator[MakeAll]:
        """Yield a function that builds pieces on the cluster.

        Raises:
            SevilaError: the extra `ray` is not installed, or there is no such cluster.
        """
        with self._lock:
            if not self._n_users:
                self._connect()
            self._n_users += 1
        try:
            yield self._make_all
        finally:
            with self._lock:
                self._n_users -= 1
                if not self._n_users:
                    self._runner.__exit__(None, None, None)  # stops tasks that still run

    def n_slots(self) -> int:
        """Return how many tasks the cluster runs in parallel; 1 if there is none, which the first task reports."""
        if not self._n_slots:
            with suppress(SevilaError), self.connected():
                pass
        return self._n_slots or 1

    def _connect(self) -> None:
        try:
            import ray
            from prefect_ray import RayTaskRunner
        except ImportError as error:
            raise SevilaError(
                f'dispatch "ray": {error}; pip install ".[ray]" here and on the nodes of the cluster'
            ) from error
        address = self._request["execution"]["ray_address"]
        self._runner = _connected(
            RayTaskRunner, os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
        )
        resources = ray.cluster_resources()
        self._n_gpus = 1 if self._request["execution"]["device"] != "cpu" and resources.get("GPU") else 0
        # At least one, which waits: a cluster whose nodes are still to come has none.
        self._n_slots = max(1, int(resources.get("GPU" if self._n_gpus else "CPU", 1)))

    def _make_all(self, id: str, n_missing: int, tries: Counter[int], show_left: ShowLeft) -> None:
        from prefect_ray.context import remote_options

        # Ray detects a killed process and retries its task; Prefect's own retries do not see it.
        with remote_options(num_gpus=self._n_gpus, max_retries=MAX_ATTEMPTS - 1):
            running = {
                number: self._runner.submit(_pieces_on_ray, _task_arguments(id, number, self._request))
                for number in range(min(self._n_slots, n_missing))
            }
        finished: Queue[int] = Queue()
        for number, future in running.items():
            future.add_done_callback(lambda _, number=number: finished.put(number))
        while running:
            with suppress(Empty):
                number = finished.get(timeout=PROGRESS_SECONDS)
                future = running.pop(number)
                future.wait()
                if not future.state.is_completed():
                    count_failure(number, future.state, tries, died=False)
            show_left()


def _connected(runner_type: Any, address: str) -> Any:
    """Return a task runner connected to the cluster; raise `SevilaError` if there is no such cluster."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("SEVILA_")}
    # Not as the runner's own argument `address`: with that, "auto" starts a local cluster if it finds none.
    runner: Any = runner_type(init_kwargs={"address": address, "runtime_env": {"env_vars": variables}})
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":  # fail early: Ray retries for 15 minutes
            socket.create_connection(address.rpartition(":")[::2], timeout=10).close()
        runner.__enter__()
    except OSError as error:
        raise SevilaError(
            f"no Ray cluster at {address!r} that this machine is a node of: {error}; `ray start --address=HOST:PORT` makes it one"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # restore Prefect's handler for cancellation, which Ray has replaced
    return runner


def _task_arguments(id: str, number: int, request: dict[str, Any]) -> dict[str, Any]:
    return {"name": run_name(id, number), "artifact": id, "request": request, "folder": os.getcwd()}


@task(name="sevila-piece", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def _pieces_on_ray(name: str, artifact: str, request: dict[str, Any], folder: str) -> State[None]:
    with chdir(folder):
        return make_pieces(artifact, request)
