"""A Ray cluster that makes pieces: the same ones, mapped by prefect-ray, with a GPU each."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.states import State

from cache.errors import SevilaError
from pipeline.engine.build import Piece
from workers.piece import TRIES_OF_A_PIECE, MakeAll, ShowLeft, count_failure, make_piece, piece_name


@contextmanager
def ray_cluster(request: dict[str, Any]) -> Iterator[MakeAll]:
    """Have a Ray cluster make pieces, as tasks that have a GPU each where it has GPUs and the run wants them.

    The nodes have the project installed, and see the same folders under the same names: what the environment of this run
    says of places, and its working folder, are the pieces' too.

    Raises:
        SevilaError: the extra is not installed, or there is no such cluster.
    """
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise SevilaError(
            f'dispatch "ray": {error}; pip install ".[ray]" here and on the nodes of the cluster'
        ) from error
    address, device = request["execution"]["ray_address"], request["execution"]["device"]
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    runner = _connected(RayTaskRunner, address)

    def make_all(id: str, left: list[Piece], tries: Counter[Piece], show_left: ShowLeft) -> None:
        n_gpus = 1 if device != "cpu" and ray.cluster_resources().get("GPU") else 0
        # A process that dies is seen by Ray, which tries its piece again, and not by Prefect's own retries.
        with remote_options(num_gpus=n_gpus, max_retries=TRIES_OF_A_PIECE - 1):
            futures = {runner.submit(_piece_on_ray, _asked(id, piece, request)): piece for piece in left}
        for future in as_completed(list(futures)):
            future.wait()
            if future.state.is_completed():
                show_left()
            else:
                count_failure(f"piece {futures[future]}", futures[future], future.state, tries, died=False)

    try:
        yield make_all
    finally:
        runner.__exit__(None, None, None)  # ends what is still at work


def _connected(runner_type: Any, address: str) -> Any:
    """Return a task runner that is part of the cluster; raises `SevilaError` if there is no such cluster."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("SEVILA_")}
    # Not as the runner's own `address`: for that, "auto" is a new cluster of this machine where there is none to be found.
    runner: Any = runner_type(init_kwargs={"address": address, "runtime_env": {"env_vars": ours}})
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address != "auto":  # Ray would try for a quarter of an hour
            socket.create_connection(address.rpartition(":")[::2], timeout=10).close()
        runner.__enter__()
    except OSError as error:
        raise SevilaError(
            f"no Ray cluster at {address!r} that this machine is a node of: {error}; `ray start --address=HOST:PORT` makes it one"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Prefect's, for cancelling; Ray has put its own in its place
    return runner


def _asked(id: str, piece: Piece, request: dict[str, Any]) -> dict[str, Any]:
    return {"name": piece_name(id, piece), "artifact": id, "piece": piece, "request": request, "folder": os.getcwd()}


@task(name="sevila-piece", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def _piece_on_ray(name: str, artifact: str, piece: Piece, request: dict[str, Any], folder: str) -> State[None]:
    with chdir(folder):
        return make_piece(artifact, piece, request)
