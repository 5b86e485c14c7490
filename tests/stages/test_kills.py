"""A run killed just before one of its file operations, wherever that is, resumes to the bytes of an uninterrupted run."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.runs import arguments, files

ROOT = Path(__file__).parents[2]
# Ends the process, as kill -9 would, before the n-th operation that changes what is on the disk.
KILLED_RUN = """
import os, sys
from cli import main

left = int(sys.argv[1])

def counted(operation):
    def run(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return operation(*arguments, **options)
    return run

for name in ("replace", "fsync", "rename", "mkdir", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
status = main(sys.argv[2:])
print("operations:", int(sys.argv[1]) - left)
sys.exit(status)
"""
NEVER = 10**9


def run(demo: Path, store: Path, kill_before: int) -> subprocess.CompletedProcess[str]:
    command = arguments("run", demo, store, "--shard-megabytes", "0.02", "-q")
    return subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(kill_before), *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_run_killed_before_any_file_operation_resumes_to_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    done = run(demo, tmp_path / "whole", NEVER)
    assert done.returncode == 0, done.stderr
    n_operations = int(done.stdout.rsplit("operations:", 1)[1])
    wanted = files(tmp_path / "whole")
    for point in random.Random(0).sample(range(1, n_operations + 1), 4):
        store = tmp_path / f"killed_{point}"
        assert run(demo, store, point).returncode == 9
        resumed = run(demo, store, NEVER)
        assert resumed.returncode == 0, f"killed before operation {point}: {resumed.stderr}"
        assert files(store) == wanted, f"killed before operation {point}"
        assert not list(store.rglob("*.part")) and not list((store / "partial").iterdir()), f"left by {point}"
