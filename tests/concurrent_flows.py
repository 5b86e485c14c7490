"""Tests of flows that run concurrently on one server, and flow parameters for the small world."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.prefect_server import PrefectServer
from tests.small_world import SMALL

HERE = {"dispatch": "here"}  # run all stages in the worker that has the run
CONCURRENT_TESTS: dict[str, Callable[[PrefectServer, Path, Path], None]] = {}  # the longest first


def run_concurrently(body: Callable[[PrefectServer, Path, Path], None]) -> Callable[[dict[str, Future[None]]], None]:
    """Return a test that reports the result of `body`, which the fixture `concurrent_tests` runs in a thread.

    `body` gets the server, a store with the small world's frames (to be copied) and an empty folder.
    """

    def test(concurrent_tests: dict[str, Future[None]]) -> None:
        concurrent_tests[body.__name__].result()

    CONCURRENT_TESTS[body.__name__] = body
    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


def places(world: Path, store: Path) -> dict[str, str]:
    """Return the paths of a copy of the small world and of a store as flow parameters."""
    sources = {"annotations": f"{world / 'questions.csv'}", "videos": f"{world / 'videos'}"}
    return sources | {"weights": f"tiny-blip2={world / 'tiny-blip2'}", "store": f"{store}"}


def options(world: Path, store: Path) -> list[str]:
    """Return the same paths as command-line options."""
    return [word for kind, place in places(world, store).items() for word in (f"--{kind}", place)]


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


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a small file system during the block."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk with a file and return its path."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return disk / "filler"
