"""A run that was started without standard streams, as some schedulers do, makes the same frames."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.runs import arguments, artifact, sevila

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>&-"])
def test_frames_are_read_by_the_same_decoder_when_streams_are_closed(demo: Path, tmp_path: Path, closed: str) -> None:
    assert sevila("stage", demo, tmp_path, "list_questions") == 0
    command = [sys.executable, "-m", "cli", *arguments("stage", demo, tmp_path, "sample_frames")]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    assert done.returncode == 0
    decoders = {video["decoder"] for video in artifact(tmp_path, "frames").rows("videos") if video["status"] == "ok"}
    assert decoders == {"decord"}
