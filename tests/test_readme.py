"""Runs the README's commands in a shell, in a folder with the files that the README names."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.official_names import official_names
from tests.small_world import write_small_world
from tests.test_documents import shell_commands
from tests.tiny_blip2 import write_tiny_blip2

ROOT = Path(__file__).parents[1]
NOT_RUN = {
    "make test": "it runs this test",
    "source .venv/bin/activate": "the environment is active already",
    "lmms-eval": "Qwen2.5-VL has 16 GB of weights; test_lmms_eval.py runs the task with a tiny model",
}
FAILS_WITHOUT_GPU = "sevila doctor"  # with status 1
PATIENCE_SECONDS = 3600  # a generous limit for busy machines
UP = """sevila up > up.log 2>&1 & up=$!
trap 'kill -TERM $up; wait $up || true' EXIT
until grep -q "^ready: " up.log; do kill -0 $up; sleep 1; done"""


def write_folder(folder: Path) -> None:
    """Write the files that README names: questions.csv, videos, BLIP-2 and SeViLA (tiny, random), NExT-QA, walk.mp4."""
    write_small_world(folder)
    rows = csv.DictReader((folder / "questions.csv").read_text(encoding="utf-8").splitlines())
    words = {word for row in rows for text in row.values() for word in text.split()}
    write_tiny_blip2(folder / "blip2-flan-t5-xl", seed=0, image_size=224, words=sorted(words))
    backbone = load_file(folder / "blip2-flan-t5-xl" / "model.safetensors")
    torch.save({"model": official_names(backbone, seed=5)}, folder / "sevila_pretrained.pth")
    shutil.copy(next((folder / "videos").glob("00_*.mp4")), folder / "walk.mp4")
    for name in ("nextqa", "NExTVideo/1164"):
        (folder / name).mkdir(parents=True)
    shutil.copy(folder / "walk.mp4", folder / "NExTVideo" / "1164" / "4010069381.mp4")
    (folder / "nextqa" / "map_vid_vidorID.json").write_text('{"4010069381": "1164/4010069381"}')
    lines = [
        f"4010069381,48,96,96,where does it go,{n},{n},{kind},a,b,c,d,e" for n, kind in enumerate(("CW", "TN", "DL"))
    ]
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
    (folder / "nextqa" / "val.csv").write_text("\n".join([header, *lines, ""]))
    for name in ("Makefile", "pyproject.toml"):  # for `make demo`
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (folder / ".venv" / ".installed").touch()


def script() -> str:
    """Return the README's commands as one script, which stops at the first error."""
    lines = ["set -eux"]
    for command in shell_commands(ROOT / "README.md"):
        if command.startswith(tuple(NOT_RUN)):
            continue
        if command.startswith("sevila up"):
            command = UP
        elif command.startswith(FAILS_WITHOUT_GPU):
            command = f"{command.split('#')[0]} || test $? = 1"
        lines.append(command)
    return "\n".join(lines)


@pytest.mark.slow
def test_every_readme_command_runs(tmp_path: Path) -> None:
    with socket.socket() as server:
        if server.connect_ex(("127.0.0.1", 4200)) == 0:
            pytest.skip("another Prefect server has port 4200, which `sevila up` takes by default")
    write_folder(tmp_path)
    prefixes = ("PREFECT_", "SEVILA_")  # settings of the user who runs the tests
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
        "BROWSER": "true",  # for --open: a command that does nothing
    }
    with (tmp_path / "log").open("w+") as log:
        with subprocess.Popen(
            ["bash", "-c", script()], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        ) as shell:
            try:
                status = shell.wait(PATIENCE_SECONDS)
            finally:
                with suppress(ProcessLookupError):  # no process is left unless the limit was reached
                    os.killpg(shell.pid, signal.SIGKILL)
        log.seek(0)
        text = log.read()
    assert status == 0, text[-5000:]
    problems = [line for line in text.splitlines() if " PROBLEM " in line]
    assert all("on a CPU" in line for line in problems), problems
    assert (tmp_path / "kf32" / "task.yaml").is_file()
    for word in ("accuracy", "refined Localizer", "Completed"):
        assert word in text
