"""Which commit a record says its code was."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ASK = "from pipeline.engine.build import _git_revision; print(_git_revision())"  # what a record's `git_revision` holds

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def revision(installed: Path, **environment: str) -> str:
    """Return what the copy of the project in this folder says."""
    command = [sys.executable, "-c", ASK]
    environment |= {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(installed)}
    done = subprocess.run(command, cwd=installed, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, installed: Path) -> str:
    """Make a repository of a folder, with a first commit of what it holds, and a copy of the code where it is installed."""
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "theirs.txt").write_text("theirs")
    for room in ("cache", "pipeline"):
        shutil.copytree(ROOT / room, installed / room, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "add", "theirs.txt")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize("where", [".venv/lib/site-packages", "."])
def test_a_strangers_repository_around_the_installed_package_is_not_its_revision(tmp_path: Path, where: str) -> None:
    theirs = tmp_path / "theirs"
    head = repository(theirs, theirs / where)
    hook = tmp_path / "ran"
    git(theirs, "config", "core.fsmonitor", f"touch {hook};")
    assert revision(theirs / where) == "None"
    assert not hook.exists(), "a command of the stranger's repository was run"
    assert head


def test_a_clone_says_its_commit_also_when_a_hook_of_another_repository_started_it(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    repository(ours, ours)
    git(ours, "add", ".")
    git(ours, "commit", "-q", "-m", "the project")
    repository(theirs, theirs / "lib")
    assert revision(ours, GIT_DIR=str(theirs / ".git"), GIT_WORK_TREE=str(theirs)) == git(ours, "rev-parse", "HEAD")
    (ours / "theirs.txt").write_text("changed")
    assert revision(ours) == git(ours, "rev-parse", "HEAD") + "-dirty"
