"""Runs without standard streams, as some schedulers start them, decode with the same library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.runs import arguments, artifact, sevila

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_change_the_decoder(demo: Path, tmp_path: Path, closed: str) -> None:
    assert sevila("stage", demo, tmp_path, "list_questions") == 0
    command = [sys.executable, "-m", "cli", *arguments("stage", demo, tmp_path, "sample_frames")]
    process = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    assert process.returncode == 0
    decoders = {video["decoder"] for video in artifact(tmp_path, "frames").rows("videos") if video["status"] == "ok"}
    assert decoders == {"decord"}
