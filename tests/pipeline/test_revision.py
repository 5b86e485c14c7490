"""The git commit stored in a record."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRINT_REVISION = "from pipeline.engine.build import _git_revision; print(_git_revision())"

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    result = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def revision(installed: Path, **environment: str) -> str:
    """Return the revision printed by the copy of the project in this folder."""
    command = [sys.executable, "-c", PRINT_REVISION]
    environment |= {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(installed)}
    result = subprocess.run(command, cwd=installed, env=environment, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def repository(folder: Path, installed: Path) -> str:
    """Create a repository in `folder` and a copy of the code in `installed`; return the first commit."""
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "theirs.txt").write_text("theirs")
    for package in ("cache", "pipeline"):
        shutil.copytree(ROOT / package, installed / package, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "add", "theirs.txt")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize("where", [".venv/lib/site-packages", "."])
def test_the_repository_around_an_installed_package_is_not_its_revision(tmp_path: Path, where: str) -> None:
    theirs = tmp_path / "theirs"
    head = repository(theirs, theirs / where)
    hook = tmp_path / "ran"
    git(theirs, "config", "core.fsmonitor", f"touch {hook};")
    assert revision(theirs / where) == "None"
    assert not hook.exists(), "a command of the surrounding repository was run"
    assert head


def test_a_clone_reports_its_own_commit_inside_a_git_hook_of_another_repository(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    repository(ours, ours)
    git(ours, "add", ".")
    git(ours, "commit", "-q", "-m", "the project")
    repository(theirs, theirs / "lib")
    assert revision(ours, GIT_DIR=str(theirs / ".git"), GIT_WORK_TREE=str(theirs)) == git(ours, "rev-parse", "HEAD")
    (ours / "theirs.txt").write_text("changed")
    assert revision(ours) == git(ours, "rev-parse", "HEAD") + "-dirty"
