"""A simulated store of the size of a whole data set, and the duration of commands that read it.

    python -m tests.big_store FOLDER [-o FILE.md] [--videos N --questions N --frames N]

writes (once) a data set of 5,440 videos and 52,000 questions and a store with eight settings of it, and then measures whole
commands (median of five runs). Records, tables, pool parts and digests are real in size and number; videos, arrays, scores
and answers are tiny placeholders.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from cache.fingerprint import fingerprint
from cache.names import names, pinning
from cache.notes import CHECKSUM, checksum
from cache.pool import part_paths, part_rows
from cache.pool_listing import PARTS
from cache.record import RECORD, Record, artifact_id, describe_files
from cache.store import Store
from cache.tables import write_rows
from pipeline.batching import cut
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.recipe import load
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Plan, RunContext, Stage
from pipeline.engine.steps import Run
from pipeline.video.attempts import Attempts
from pipeline.video.frames import VideoProbe
from reports.named_runs import pinned
from stages import sample_frames as sampling
from stages.all import STAGES
from stages.chain import chain_of
from tests.tiny_blip2 import write_tiny_blip2

N_VIDEOS, N_QUESTIONS, N_FRAMES = 5440, 52_000, 32
FEATURE_BYTES = N_FRAMES * 257 * 1408 * 2  # of one video in a real store; determines the shards
SETTINGS = [f"select_keyframes.{change}" for change in ("k=4", "k=2", "k=1", "k=8", "method=uniform", "method=random")]
SETTINGS += ["answer_questions.method=vote", "score_frames.instruction=information_needed"]
REPEATS = 5


def make(
    folder: Path,
    n_videos: int = N_VIDEOS,
    n_questions: int = N_QUESTIONS,
    settings: Sequence[str] = SETTINGS,
    n_frames: int = N_FRAMES,
) -> None:
    """Write the data set and the store if missing."""
    if (folder / "complete").exists():
        return
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for number in range(n_videos):
        (videos / f"video{number:05d}.mp4").write_bytes(b"%d" % number)
    with (folder / "questions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["video", "question", *(f"a{n}" for n in range(5)), "answer", "type"])
        for number in range(n_questions):
            video = f"video{number * n_videos // n_questions:05d}"
            options = [f"the {word} thing number {number}" for word in ("first", "second", "third", "fourth", "fifth")]
            question = f"why does the person in question {number} turn round before the door is closed"
            writer.writerow([video, question, *options, number % 5, ("causal", "temporal", "descriptive")[number % 3]])
    write_tiny_blip2(folder / "tiny-blip2", 0)
    for setting in settings:
        recipe = load(
            str(Path(__file__).with_name("small.toml")), STAGES, [f"sample_frames.frames={n_frames}", setting]
        )
        store = Store(folder / "store")
        sources = Sources(store.digests, {kind: [str(folder / where)] for kind, where in PLACES.items()})
        run = RunContext(store, device="cpu", sources=sources)
        with pinned(store, setting.split(".")[1].replace("=", "-"), recipe, []) as pin:
            chain_of(recipe)(recipe, Simulated(recipe, run, pin), sources)
        print(f"made {setting}", flush=True)
    (folder / "complete").touch()


PLACES = {"annotations": "questions.csv", "videos": "videos", "weights": "tiny-blip2"}


class Simulated(Run):
    """Runs a chain with placeholder functions for the stages that decode videos or run a model."""

    def __call__(self, stage: Stage, /, *inputs: Any, setting: str = "", **changes: Any) -> Any:
        body, plan = BODIES.get(stage.name, stage.function), PLANS.get(stage.name, stage.plan)
        return super().__call__(
            dataclasses.replace(stage, function=body, plan=plan), *inputs, setting=setting, **changes
        )


def _frames(cfg: Any, run: RunContext, videos: Any, *, out: ShardedOutput) -> None:
    pool = out.pool(config=cfg.model_dump())
    n_frames = 16 + 37 * cfg.frames
    probe = dataclasses.asdict(VideoProbe(n_frames, 30.0, n_frames / 30.0, 640, 360, "h264", "mp4", "decord"))
    indices = list(range(18, n_frames, 37))
    facts = {"probe": probe, "clips": [{"frame_indices": indices, "note": ""}]}

    def work(shard: Shard) -> None:
        shard_videos = [videos.videos[item] for item in shard.items]
        for video in shard_videos:
            key = sampling._key(video)
            if not pool.parts(key):
                pool.write(key, indices, (2, 2, 3), "uint8", _piece((cfg.frames, 2, 2, 3), "uint8"), facts)()
        sampling._write_tables(shard_videos, pool, Attempts(), shard)

    out.each_shard(work)


def _features(cfg: Any, run: RunContext, frames: Any, backbone: Any, *_: Any, out: ShardedOutput) -> None:
    videos, indices = frames.videos(), frames.frame_indices()
    pool = out.pool(config=cfg.model_dump(), encoder=backbone.encoder_fingerprint())

    def work(shard: Shard) -> None:
        shard_videos = [videos[item] for item in shard.items]
        parts = []
        for video in shard_videos:
            key, held = frames.pixel_key(video), indices[video.video_id].tolist()
            if not pool.parts(key):
                pool.write(key, held, (1, 4), "float16", _piece((len(held), 1, 4), "float16"), {})()
            parts += part_rows(video.video_id, held, pool.parts(key))
        columns = ("video_id", "status", "reason", "n_frames")
        shard.write_rows("videos", [{name: getattr(video, name) for name in columns} for video in shard_videos])
        shard.write_rows("parts", parts)

    out.each_shard(work)


def _piece(shape: tuple[int, ...], dtype: str) -> Iterator[np.ndarray]:
    yield np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def _scores(
    cfg: Any, run: RunContext, questions: Any, frames: Any, features: Any, backbone: Any, localizer: Any, *, out: Any
) -> None:
    rows_of_questions, clips = questions.rows("questions"), frames.clips()

    def work(shard: Shard) -> None:
        rows = []
        for item in shard.items:
            clip = clips[rows_of_questions[item]["video_id"], rows_of_questions[item]["clip_id"]]
            for position, (index, seconds) in enumerate(zip(clip["frame_index"], clip["seconds"], strict=True)):
                score = ((item * 31 + position * 17) % 97) / 97
                row = {name: rows_of_questions[item][name] for name in ("question_id", "video_id")}
                row |= {"position": position, "frame_index": int(index), "seconds": float(seconds), "truncated": False}
                rows.append(row | {"logit_yes": score, "logit_no": 0.5, "probability_yes": score})
        shard.write_rows("frame_scores", rows)

    out.each_shard(work)


def _answers(
    cfg: Any, run: RunContext, questions: Any, keyframes: Any, features: Any, backbone: Any, answerer: Any, *, out: Any
) -> None:
    keyframe_rows = keyframes.rows("keyframes")

    def work(shard: Shard) -> None:
        rows = []
        for item in shard.items:
            row = {name: keyframe_rows[item][name] for name in ("question_id", "video_id", "status", "reason")}
            row |= {"prediction": (item * item) % 5, "option_logits": [0.1, 0.2, 0.3, 0.4, 0.5], "votes": []}
            rows.append(row | {"first_token_id": 7, "n_frames": len(keyframe_rows[item]["rows"]), "truncated": False})
        shard.write_rows("answers", rows)
        shard.write_rows("frame_answers", [])

    out.each_shard(work)


def _thousands(n_items: int) -> list[list[int]]:
    return [list(range(start, min(start + 4000, n_items))) for start in range(0, n_items, 4000)]


PLANS: dict[str, Callable[..., Plan]] = {
    "extract_features": lambda run, frames: Plan(cut([FEATURE_BYTES] * len(frames.rows("videos")), run.shard_bytes)),
    "score_frames": lambda questions: Plan(_thousands(len(questions.rows("questions")))),
    "answer_questions": lambda keyframes: Plan(_thousands(len(keyframes.rows("keyframes")))),
}
BODIES: dict[str, Callable[..., None]] = {
    "sample_frames": _frames,
    "extract_features": _features,
    "score_frames": _scores,
    "answer_questions": _answers,
}


def make_many(root: Path, n_artifacts: int = 10_000, n_parts: int = 50_000) -> None:
    """Write a store of many years: chains of ten small artifacts, one of them with pool parts; every tenth chain has a name.

    Nothing is synced to the disk.
    """
    store, long_ago, n_chains = Store(root), time.time() - 30 * 86400, n_artifacts // 10
    space = "extract_features-v2-" + "0" * 20
    for chain in range(n_chains):
        of_chain = range(chain * n_parts // n_chains, (chain + 1) * n_parts // n_chains)
        keys = {f"{number}": fingerprint(["many", number]) for number in of_chain}
        parts = [
            {
                "video_id": video,
                "key": key,
                "part": fingerprint([0]),
                "frame_indices": [0],
                "rows": [0],
                "part_rows": [0],
            }
            for video, key in keys.items()
        ]
        for key in keys.values():
            array, note = part_paths(root, space, key, fingerprint([0]))
            array.parent.mkdir(parents=True)
            array.write_bytes(b"array")
            note.write_text("{}")
            for path in (array, note):
                os.utime(path, (long_ago, long_ago))
        before: Record | None = None
        for depth in range(10):
            inputs: dict[str, str | None] = {"before": before.id if before else None}
            stage = "extract_features" if depth == 1 else "select_keyframes"
            id = artifact_id(stage, 1, {"chain": chain, "depth": depth}, inputs)
            folder = root / "artifacts" / id
            (folder / "progress").mkdir(parents=True)
            if depth == 1:
                write_rows(folder / "parts" / "00000.parquet", PARTS, parts)
            else:
                (folder / "rows.json").write_text(f"[{depth}]")
            files = describe_files(folder, ["parts/00000.parquet" if depth == 1 else "rows.json"])
            record = Record(id, stage, 1, "thing", {"chain": chain, "depth": depth}, inputs, files=files)
            finished = datetime.fromtimestamp(long_ago + depth, UTC).isoformat()
            contents = {"before": before.content} if before else {}
            pool = space if depth == 1 else ""
            record = dataclasses.replace(record, finished=finished, pool=pool, input_contents=contents).sealed()
            text = json.dumps({**record.as_note(), CHECKSUM: checksum(record.as_note())}, indent=1)
            for path in (folder / RECORD, folder / "progress" / RECORD):
                path.write_text(text)
            before = record
        if chain % 10 == 0:
            assert before is not None
            with pinning(store, f"run{chain}", "recipe", {}, []) as pins:
                pins.add(before.id, before.stage, "")


def commands(folder: Path, n_frames: int = N_FRAMES) -> dict[str, list[str]]:
    """Return the commands to measure by their names in the table."""
    store = ["--store", str(folder / "store")]
    small = [str(Path(__file__).with_name("small.toml")), "--set", f"sample_frames.frames={n_frames}"]
    recipe = small + [part for kind, where in PLACES.items() for part in (f"--{kind}", str(folder / where))]
    return {
        "plan, everything made": ["plan", *recipe, *store],
        "plan, another k": ["plan", *recipe, "--set", "select_keyframes.k=3", *store],
        "plan, nothing made": ["plan", *recipe, "--store", str(folder / "empty")],
        "cache ls": ["cache", "ls", *store],
        "cache why, another k": ["cache", "why", *recipe, "--set", "select_keyframes.k=3", *store],
        "cache du": ["cache", "du", *store],
        "cache gc (dry run)": ["cache", "gc", *store],
        "runs": ["runs", *store],
        "cache verify --all": ["cache", "verify", "--all", *store],
    }


def median_seconds(arguments: list[str]) -> tuple[float, float]:
    """Return the median wall-clock and processor seconds of a whole command, interpreter included."""
    wall, processor = [], []
    for _ in range(REPEATS):
        started, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, "-m", "cli", *arguments], check=True, capture_output=True)
        after = os.times()
        wall.append(time.perf_counter() - started)
        processor.append(after[2] + after[3] - before[2] - before[3])
    return statistics.median(wall), statistics.median(processor)


def main() -> None:
    """Write the store and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="also write the table to this file")
    for what, default in (("videos", N_VIDEOS), ("questions", N_QUESTIONS), ("frames", N_FRAMES)):
        parser.add_argument(f"--{what}", type=int, default=default, help=f"(default: {default})")
    options = parser.parse_args()
    make(options.folder, options.videos, options.questions, SETTINGS, options.frames)
    store = Store(options.folder / "store")
    n_parts = sum(1 for _ in (store.root / "pool").glob("*/*/*/*.json"))
    lines = [
        f"{options.videos:,} videos of {options.frames} frames, {options.questions:,} questions; "
        f"{len(list(store))} artifacts, {n_parts:,} pool parts, "
        f"{len(names(store.root))} named runs; {os.cpu_count()} cores, Python {platform.python_version()}",
        "",
        "| command | seconds, median of 5 | processor seconds |",
        "|---|---:|---:|",
    ]
    for name, arguments in commands(options.folder, options.frames).items():
        wall, processor = median_seconds(arguments)
        lines.append(f"| {name} | {wall:.2f} | {processor:.2f} |")
        print(lines[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
