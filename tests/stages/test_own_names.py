"""Only the name `sevila` is installed: a user's own modules with names of ours, such as `cache`, do not collide."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from sevila.rooms import ROOMS
from tests.stages.runs import arguments

REPOSITORY = Path(__file__).parents[2]
USER_MODULES = ("benchmarks", "flows", "tests", *ROOMS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a user's own modules, each named like one of our packages."""
    for name in USER_MODULES:
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    return tmp_path


def python(folder: Path, *words: str, path: Path = REPOSITORY) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEVILA_")}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SCRIPT = f"""
import cache
import sevila
from importlib import import_module
from multiprocessing import get_context

if __name__ == "__main__":
    print(sevila.select([0.1, 0.9, 0.3], "top_k", k=1).tolist(), sevila.artifact("answer", store="store").stage)
    assert all(import_module(name).MINE for name in {USER_MODULES})
    assert sevila.cache.errors.SevilaError is sevila.SevilaError and cache.MINE
    from sevila.pipeline.memory import peak_memory_bytes

    for way in ("spawn", "forkserver"):
        with get_context(way).Pool(1) as pool:
            assert pool.apply(peak_memory_bytes) > 0
"""


def test_a_script_and_its_worker_processes_import_both_user_modules_and_sevila(folder: Path, finished: Path) -> None:
    shutil.copytree(finished, folder / "store")
    (folder / "script.py").write_text(SCRIPT)
    assert python(folder, "script.py") == "[1] answer_questions\n"


def test_dir_lists_only_public_names_and_extending_is_importable(folder: Path) -> None:
    code = "import sevila; print(sevila.extending.selector.__name__, *dir(sevila))"
    names = "Answerer ArtifactTables Experiment Localizer OptionAnswer RunTables SevilaError TensorScores __version__"
    assert python(folder, "-c", code) == f"selector {names} artifact extending load select\n"


def test_page_templates_load_beside_user_modules(folder: Path) -> None:
    pages = "from sevila.reports import ask_page, page; ask_page._environment().get_template('ask.html')"
    python(folder, "-c", pages)


def test_the_command_decodes_videos_beside_user_modules(folder: Path, demo: Path) -> None:
    world = shutil.copytree(demo, folder / "world")
    (world / "questions.csv").write_text("".join((demo / "questions.csv").read_text().splitlines(keepends=True)[:2]))
    for stage in ("list_questions", "sample_frames"):
        printed = python(folder, "-m", "sevila", *arguments("stage", world, folder / "store", stage))
        assert f"{stage}-v" in printed


@pytest.mark.slow
def test_an_installed_distribution_provides_only_sevila(folder: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("sevila", *ROOMS):
        shutil.copytree(REPOSITORY / name, tmp_path / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path / "source")
    words = ["-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--no-index", "-w", "wheels", "./source"]
    python(folder, *words)
    (wheel,) = (tmp_path / "wheels").iterdir()
    ZipFile(wheel).extractall(tmp_path / "site")
    assert {path.name.split("-")[0] for path in (tmp_path / "site").iterdir()} == {"sevila", "sevila_pipeline"}
    code = "import cache, sevila; print(sevila.cache.__file__, sevila.select([1, 2], 'bolt', k=1).tolist(), cache.MINE)"
    assert python(folder, "-c", code, path=tmp_path / "site").startswith(f"{tmp_path}/site/sevila/cache/__init__.py [")
    assert "nextqa" in python(folder, "-m", "sevila", "recipes", path=tmp_path / "site")
