"""Tests of flows that mostly wait, side by side on one server, and the small world as the parameters of their runs."""

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

HERE = {"dispatch": "here"}  # what is small enough for one worker is made by the one that has the run
ACTS: dict[str, Callable[[PrefectServer, Path, Path], None]] = {}  # those that wait longest first


def side_by_side(act: Callable[[PrefectServer, Path, Path], None]) -> Callable[[dict[str, Future[None]]], None]:
    """Make a test of what mostly waits: these run beside each other and the other tests, and each is told in its turn.

    It gets a store that holds the small world's frames, to copy, and an empty folder.
    """

    def test(begun: dict[str, Future[None]]) -> None:
        begun[act.__name__].result()

    ACTS[act.__name__] = act
    test.__name__, test.__doc__ = act.__name__, act.__doc__
    return test


def places(world: Path, store: Path) -> dict[str, str]:
    """Where a copy of the small world, and a store, lie."""
    found = {"annotations": f"{world / 'questions.csv'}", "videos": f"{world / 'videos'}"}
    return found | {"weights": f"tiny-blip2={world / 'tiny-blip2'}", "store": f"{store}"}


def options(world: Path, store: Path) -> list[str]:
    """The same for the command line."""
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
    """Mount a file system of its own during the block."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that leaves no room on a disk."""
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return disk / "filler"
