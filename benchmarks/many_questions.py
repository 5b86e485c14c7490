"""Seconds and peak memory of each stage at a million questions: `python -m benchmarks.many_questions FOLDER [questions]`.

Each stage in a process of its own, over a store with true numbers of rows: 8 questions a video (or `QUESTIONS_A_VIDEO` of the
environment), 32 frames. Videos share a few contents, so that the pool holds these only. Of a stage that runs a model, at the
tiny model's size, one shard of a real one's number of rows is made, and the seconds until it begins stand beside those of the
whole; what comes after reads drawn scores and answers. Writes `many_questions.json` to OUT, by default the current folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import show
from benchmarks.world import TINY, WEIGHTS, draw_frames, places_of, write_checkpoint
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.recipe import Recipe, load
from pipeline.engine.sources import Sources, VideoFiles
from pipeline.engine.stage import Artifact, RunContext, Stage
from pipeline.memory import peak_memory_bytes, reset_peak_memory
from pipeline.text_table import aligned
from stages.all import STAGES

A_VIDEO = int(os.environ.get("QUESTIONS_A_VIDEO", "8"))
N_FRAMES, N_CONTENTS, SHARD_VIDEOS = 32, 100, 46
# Of what a shard holds at a real model's size, this many times fewer bytes are the tiny one's.
FEATURE_BYTES = N_FRAMES * 5 * 32 * 2
PIXEL_BYTES = N_FRAMES * TINY.image_size**2 * 3
SETTINGS = [
    f"import_backbone.weights={WEIGHTS}",
    f"sample_frames.frames={N_FRAMES}",
    f"sample_frames.size={TINY.image_size}",
    *(f"{name}.precision=float32" for name in ("extract_features", "score_frames", "answer_questions", "label_frames")),
]
DRAWN = {"score_frames": {"instruction": "information_needed"}, "answer_questions": {"readout": "text"}}


def write_world(folder: Path, n_questions: int) -> None:
    """Write the questions, as CSV and with their moments as JSON lines, the videos and the model."""
    n_videos = n_questions // A_VIDEO
    (folder / "videos").mkdir(parents=True)
    for number in range(n_videos):
        (folder / "videos" / f"video{number:06d}.mp4").write_bytes(b"content %d" % (number % N_CONTENTS))
    options = [f"the {word} thing that the person does" for word in ("first", "second", "third", "fourth", "fifth")]
    with (folder / "questions.csv").open("w", newline="") as table, (folder / "questions.jsonl").open("w") as lines:
        writer = csv.writer(table)
        writer.writerow(["video", "question", *(f"a{n}" for n in range(5)), "answer", "type"])
        for number in range(n_questions):
            video = f"video{number * n_videos // n_questions:06d}"
            question = f"why does the person in question {number} turn round before the door is closed"
            own = [f"{option} in scene {number}" for option in options]
            kind = ("causal", "temporal", "descriptive")[number % 3]
            writer.writerow([video, question, *own, number % 5, kind])
            row = {"video": video, "question": question, "options": own, "answer": number % 5, "type": kind}
            lines.write(json.dumps(row | {"moments": [[number % 20, number % 20 + 6.0]]}) + "\n")
    write_checkpoint(folder / WEIGHTS, TINY, "cpu", torch.float32)


class FirstShardMade(Exception):
    """Raised to end a stage after its first shard."""


class Steps:
    """The steps over one world, each of which finds in the store what those before it made."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ids = folder, folder / "ids.json"
        self._store = Store(folder / "store")
        self._sources = self._sources_of("questions.jsonl")
        self._recipe: Recipe = load("plain", STAGES, SETTINGS)

    def read_csv(self) -> None:
        """List the questions of the CSV file."""
        self._make("list_questions", [self._sources_of("questions.csv").annotations("plain", "")])

    def list_questions(self) -> None:
        """List the questions of the JSON lines."""
        self._make("list_questions", [self._sources.annotations("plain", "")])

    def find_videos(self) -> None:
        """Identify the videos, as planning does."""
        self._videos()

    def sample_frames(self) -> None:
        """Draw the frames."""
        stage = replace(STAGES["sample_frames"], function=draw_frames)
        self._make(stage, [self._videos()], shard_bytes=222 * PIXEL_BYTES)

    def import_weights(self) -> None:
        """Import the model."""
        weights = self._sources.weights(WEIGHTS)
        self._make("import_backbone", [weights])
        for name in ("init_localizer", "init_answerer"):
            self._make(name, [self._artifact("import_backbone"), None])

    def extract_features(self) -> None:
        """Extract the features of the few contents there are."""
        self._make("extract_features", [*self._all("sample_frames", "import_backbone"), None, None])

    def score_frames(self) -> None:
        """Score the frames of one shard."""
        self._make_shard("score_frames", self._all(*SCORED, "init_localizer"))

    def label_frames(self) -> None:
        """Label the frames of one shard."""
        self._make_shard("label_frames", self._all(*SCORED, "init_answerer"))

    def draw_scores(self) -> None:
        """Draw all scores."""
        self._make(replace(STAGES["score_frames"], function=_scores), self._all(*SCORED, "init_localizer"))

    def select_keyframes(self) -> None:
        """Select by the drawn scores."""
        self._make("select_keyframes", [*self._all("list_questions", "sample_frames", "score_frames"), None])

    def answer_questions(self) -> None:
        """Answer the questions of one shard."""
        self._make_shard("answer_questions", self._all(*ANSWERED))

    def draw_answers(self) -> None:
        """Draw all answers."""
        self._make(replace(STAGES["answer_questions"], function=_answers), self._all(*ANSWERED))

    def evaluate(self) -> None:
        """Count the right ones of the drawn answers."""
        self._make("evaluate", self._all("list_questions", "answer_questions"))

    def evaluate_localization(self) -> None:
        """Hold the keyframes against moments, of which each question has one."""
        names = ("list_questions", "sample_frames", "score_frames", "select_keyframes")
        self._make("evaluate_localization", self._all(*names))

    def retrieve_moments(self) -> None:
        """Join frames into moments."""
        self._make("retrieve_moments", self._all("list_questions", "sample_frames", "score_frames"))

    def _sources_of(self, annotations: str) -> Sources:
        places = {**places_of(self._folder, self._folder / WEIGHTS), "annotations": str(self._folder / annotations)}
        return Sources(self._store.digests, {kind: [place] for kind, place in places.items()})

    def _videos(self) -> VideoFiles:
        return self._sources.videos("plain", self._artifact("list_questions"))

    def _run(self, shard_bytes: int) -> RunContext:
        return RunContext(self._store, device="cpu", sources=self._sources, shard_bytes=shard_bytes)

    def _make(self, stage: Stage | str, inputs: Sequence[Any], shard_bytes: int = SHARD_VIDEOS * FEATURE_BYTES) -> None:
        stage = STAGES[stage] if isinstance(stage, str) else stage
        drawn = DRAWN.get(stage.name, {})
        cfg = self._recipe.config(stage, **drawn)
        artifact = build(stage, cfg, self._run(shard_bytes), inputs)
        ids = json.loads(self._ids.read_text()) if self._ids.exists() else {}
        self._ids.write_text(json.dumps(ids | {stage.name: artifact.id}))

    def _make_shard(self, name: str, inputs: Sequence[Any]) -> None:
        stage = STAGES[name]
        begun = time.perf_counter()

        def function(*arguments: Any, out: ShardedOutput) -> None:
            each = out.each_shard

            def each_shard(work: Callable[[Shard], None]) -> None:
                _note(self._folder, before_shard=round(time.perf_counter() - begun, 1))

                def first_shard(shard: Shard) -> None:
                    work(shard)
                    raise FirstShardMade

                each(first_shard)

            out.each_shard = each_shard  # type: ignore[method-assign]
            stage.function(*arguments, out=out)

        run = self._run(SHARD_VIDEOS * FEATURE_BYTES)
        with suppress(FirstShardMade):
            build(replace(stage, function=function), self._recipe.config(stage), run, inputs)

    def _artifact(self, name: str) -> Artifact:
        return STAGES[name].output(self._store, json.loads(self._ids.read_text())[name])

    def _all(self, *names: str) -> list[Artifact]:
        return [self._artifact(name) for name in names]


SCORED = ("list_questions", "sample_frames", "extract_features", "import_backbone")
ANSWERED = ("list_questions", "select_keyframes", "extract_features", "import_backbone", "init_answerer")
STEPS = [name for name in vars(Steps) if not name.startswith("_")]


def _scores(cfg: Any, run: RunContext, questions: Any, frames: Any, features: Any, *_: Any, out: ShardedOutput) -> None:
    videos = features.columns("videos", "video_id")["video_id"]
    ids = questions.columns("questions", "question_id")["question_id"]
    indices = np.arange(0, N_FRAMES * 8, 8)

    def work(shard: Shard) -> None:
        # An item is a video, or a part of its questions, as in pipeline/inference/asked_videos.py.
        parts = [(item, 0, A_VIDEO) if isinstance(item, int) else item for item in shard.items]
        numbers = np.concatenate([video * A_VIDEO + np.arange(start, stop) for video, start, stop in parts])
        n_rows = len(numbers) * N_FRAMES
        logits = np.random.default_rng(shard.number).normal(size=n_rows).astype(np.float32)
        columns = {
            "question_id": ids[numbers].repeat(N_FRAMES),
            "video_id": videos[numbers // A_VIDEO].repeat(N_FRAMES),
            "position": np.tile(np.arange(N_FRAMES), len(numbers)),
            "frame_index": np.tile(indices, len(numbers)),
            "seconds": np.tile(indices / 8, len(numbers)),
            "logit_yes": logits,
            "logit_no": np.zeros(n_rows, np.float32),
            "probability_yes": 1 / (1 + np.exp(-logits)),
            "truncated": np.zeros(n_rows, bool),
        }
        shard.write_columns("frame_scores", columns)

    out.each_shard(work)


def _answers(cfg: Any, run: RunContext, questions: Any, keyframes: Any, *_: Any, out: ShardedOutput) -> None:
    chosen = keyframes.columns("keyframes", "question_id", "video_id")

    def work(shard: Shard) -> None:
        n_rows = len(shard.items)
        rng = np.random.default_rng(shard.number)
        columns = {name: values[shard.items] for name, values in chosen.items()}
        columns |= {"status": ["ok"] * n_rows, "reason": [""] * n_rows, "prediction": rng.integers(5, size=n_rows)}
        columns |= {"option_logits": list(rng.normal(size=(n_rows, 5))), "votes": [[]] * n_rows}
        columns |= {"first_token_id": [7] * n_rows, "n_frames": [4] * n_rows, "truncated": [False] * n_rows}
        shard.write_columns("answers", columns)
        shard.write_rows("frame_answers", [])

    out.each_shard(work)


def _note(folder: Path, **values: Any) -> None:
    path = folder / "figures.json"
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def measure(folder: Path, name: str) -> None:
    """Run one step in this process, and note its figures."""
    steps = Steps(folder)
    reset_peak_memory()
    _note(folder, **dict.fromkeys(("before_shard",)))
    start_bytes, begun = peak_memory_bytes(), time.perf_counter()
    getattr(steps, name)()
    seconds = time.perf_counter() - begun
    _note(folder, step=name, seconds=round(seconds, 1), start_bytes=start_bytes, peak_bytes=peak_memory_bytes())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the world and its store; an earlier run's is gone on with")
    parser.add_argument("questions", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--steps", nargs="*", default=STEPS, help=f"of {', '.join(STEPS)}")
    parser.add_argument("--in-this-process", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_this_process:
        return measure(options.folder, options.in_this_process)
    if not (options.folder / WEIGHTS).exists():
        write_world(options.folder, options.questions)
    lines = [["step", "seconds", "of these before the shard", "GB at the start", "GB at most"]]
    for name in options.steps:
        own = [sys.executable, "-m", "benchmarks.many_questions", str(options.folder), "--in-this-process", name]
        subprocess.run(own, check=True)
        of = json.loads((options.folder / "figures.json").read_text())
        before = "" if of["before_shard"] is None else f"{of['before_shard']:.1f}"
        gigabytes = [f"{of[which] / 1e9:.2f}" for which in ("start_bytes", "peak_bytes")]
        lines.append([name, f"{of['seconds']:.1f}", before, *gigabytes])
        print(aligned([lines[-1]]), flush=True)
    show("many_questions", lines, questions_a_video=A_VIDEO)


if __name__ == "__main__":
    main()
