"""One demo data set and one finished run of it, shared by all tests of stages."""

import shutil
from pathlib import Path

import pytest

from tests.small_world import write_small_world
from tests.stages.runs import UNIFORM, sevila


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_small_world(folder)
    return folder


@pytest.fixture(scope="session")
def finished(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after one run of the demo recipe; tests must not change it."""
    store = tmp_path_factory.mktemp("finished")
    assert sevila("run", demo, store) == 0
    return store


@pytest.fixture(scope="session")
def named(finished: Path, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two named runs, `baseline` and `uniform`; tests must not change it."""
    store = Path(shutil.copytree(finished, tmp_path_factory.mktemp("named") / "store"))
    assert sevila("run", demo, store, "--name", "baseline") == 0
    assert sevila("run", demo, store, "--name", "uniform", *UNIFORM) == 0
    return store


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's store, which a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "store"))
