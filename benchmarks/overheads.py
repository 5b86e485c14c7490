"""Overheads of a run: `python -m benchmarks.overheads [N videos]`.

Wall seconds of complete commands with random weights of the tiny model on a CPU, real video files and a fresh store; each after
the previous one. With Prefect: the flow of a deployment, in its own process, including its server. Writes `overheads.json` to
OUT, by default the current folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.report import show
from benchmarks.world import IN_FLOAT32, TINY, WEIGHTS, command, places_of, write_checkpoint, write_questions
from cache.fingerprint import fingerprint
from tests.videos import make_video

FLOW = """
import json, sys
from flows import Execution, Places, sevila
sevila("plain", sys.argv[2:], places=Places(**json.loads(sys.argv[1])), execution=Execution(dispatch="here", device="cpu"))
"""
PREFECT = {
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "SEVILA_REPORT": "no",
}
SETTINGS = [
    f"import_backbone.weights={WEIGHTS}",
    f"sample_frames.size={TINY.image_size}",
    *IN_FLOAT32,
]


class World:
    """Videos, questions and weights on disk, and commands over them."""

    def __init__(self, folder: Path, n_videos: int) -> None:
        self.folder = folder
        (folder / "videos").mkdir()
        self._video = make_video(folder / "first.mp4", n_frames=120, fps=12, size=(160, 120)).read_bytes()
        self.n_videos = 0
        for _ in range(n_videos):
            self.add_video()
        write_checkpoint(folder / WEIGHTS, TINY, "cpu", torch.float32)

    def add_video(self) -> None:
        """Add one more video, with four questions."""
        number, self.n_videos = self.n_videos, self.n_videos + 1
        (self.folder / "videos" / f"{number}.mp4").write_bytes(self._video + fingerprint(number).encode())
        videos = [f"{number}.mp4" for number in range(self.n_videos)]
        write_questions(self.folder, videos, [f"What is {number}?" for number in range(4)])

    def command(self, *words: str, store: str = "store") -> list[str]:
        """Return a command that runs the recipe `plain`."""
        return command(words, self.folder, self.folder / WEIGHTS, SETTINGS, store)


def seconds(*commands: list[str]) -> float:
    """Return the wall seconds of commands that run in parallel; exits if one fails."""
    environment = {**os.environ, **PREFECT}
    started = time.perf_counter()
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for command in commands
    ]
    problems = [process.communicate()[1] for process in running]
    if any(process.returncode for process in running):
        sys.exit(b"\n".join(problems).decode())
    return time.perf_counter() - started


def main(n_videos: int) -> None:
    """Print a table."""
    lines = [["command", "seconds"]]

    def add(name: str, *commands: list[str]) -> None:
        lines.append([name, f"{seconds(*commands):.1f}"])
        print(name, lines[-1][1], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = f"{folder}/prefect"
        world = World(Path(folder), n_videos)
        run = world.command("run")
        add("sevila --version", [sys.executable, "-m", "sevila", "--version"])
        add("plan, empty store", world.command("plan"))
        add("run", run)
        add("plan, all cached", world.command("plan"))
        add("run, all cached", run)
        world.add_video()
        add("run, one more video", run)
        twice = world.command("run", store="twice")
        add("two processes with the same run", twice, twice)
        places = {**places_of(world.folder, world.folder / WEIGHTS), "store": str(world.folder / "flow")}
        flow = [sys.executable, "-c", FLOW, json.dumps(places), *SETTINGS]
        add("the flow, with Prefect's server", flow)
        add("the flow, all cached", flow)
    show("overheads", lines)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
