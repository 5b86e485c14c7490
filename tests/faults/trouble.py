"""Temporary read errors, sources that are exchanged during a run, and a hostile environment."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.faults.judging import contents, stage_in_progress
from tests.faults.kills import DECODER
from tests.faults.victims import Victim, output_tail
from tests.faults.world import OTHER, Trial, World

POLL_SECONDS = 0.002
EXCHANGED = ("questions.jsonl", "tiny-blip2/model.safetensors", "videos")
# Variables that libraries read and that would change results or end the run.
HOSTILE_ENVIRONMENTS = (
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    {"ACCELERATE_MIXED_PRECISION": "bf16"},
    {"ACCELERATE_USE_DEEPSPEED": "true"},
    {"ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "FULL_SHARD"},
    {"ACCELERATE_DYNAMO_BACKEND": "EAGER"},
    {"ACCELERATE_DOWNCAST_BF16": "true", "ACCELERATE_SPLIT_BATCHES": "true"},
    {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "NVIDIA_TF32_OVERRIDE": "1"},
)

Change = Callable[[Victim, World], object]


def while_reading(trial: Trial) -> None:
    """Disturb the reading of videos for a moment; the run or a second one must give the undisturbed content."""
    while not trial.is_done:
        name = trial.rng.choice(sorted(DISTURBANCES))
        begin, end = DISTURBANCES[name]
        with _own_data(trial) as world:
            victim = trial.start(world)
            status = _until_reading(trial, victim)
            if status is None:
                begin(victim, world)
                trial.count_fault(f"{name}, in {stage_in_progress(trial.store)}")
                status = victim.wait(trial.rng.uniform(0.1, 4.0))
                end(victim, world)
            status = victim.finish() if status is None else status
            if status:
                trial.check_clear_error(status, name=name)
                status = trial.start(world).finish()
            trial.end(status, other_inputs=name == "videos exchanged")


def sources_exchanged(trial: Trial) -> None:
    """Replace annotations, weights or videos by another world's at a random moment of a run; replace all and run again.

    Each file must equal that of a run over one world, or belong to an artifact of mixed inputs.
    """
    old, new = trial.worlds
    others = old.folder.with_name(OTHER)
    while not trial.is_done:
        with _own_data(trial) as world:
            victim = trial.start(world)
            status = victim.wait(trial.rng.uniform(0, 0.6 * old.seconds))
            if status is None:
                for name in trial.rng.sample(EXCHANGED, trial.rng.randint(1, len(EXCHANGED))):
                    _put_in_place(others / name, world.folder / name)
                trial.count_fault(f"in {stage_in_progress(trial.store)}")
                status = victim.finish()
                if status:
                    trial.check_clear_error(status, name="exchanged")
            for name in EXCHANGED:
                _put_in_place(others / name, world.folder / name)
            status = trial.start(world).finish()
            if status:
                trial.fail("lost", f"the same command ended with status {status}: {output_tail(trial.beside)}")
        _check_exchanged(trial, old.contents, new.contents)
        trial.reset()


def in_hostile_environment(trial: Trial) -> None:
    """Run with variables set that libraries read; the content must be what it is without them."""
    while not trial.is_done:
        variables = trial.rng.choice(HOSTILE_ENVIRONMENTS)
        status = trial.start(environment=variables).finish()
        trial.count_fault(", ".join(variables))
        trial.end(status)


@contextmanager
def _own_data(trial: Trial) -> Iterator[World]:
    """Yield the trial's world with a copy of its data that may be changed."""
    folder = trial.folder / "world"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trial.world.folder, folder, symlinks=True)
    yield replace(trial.world, folder=folder)


def _until_reading(trial: Trial, victim: Victim) -> int | None:
    """Wait for a random moment while videos are decoded; return the exit status if the run ends before."""
    while not any((trial.store / "partial").glob("sample_frames-*")):
        if (status := victim.wait(POLL_SECONDS)) is not None:
            return status
    seconds = next(each for id, each in trial.world.artifacts.items() if id.startswith("sample_frames-"))
    return victim.wait(trial.rng.uniform(0, seconds))


def _signal(victim: Victim, number: int, words: str = "") -> None:
    for pid in [*victim.children(words), *([] if words else [victim.pid])]:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _kill_decoders(victim: Victim, world: World) -> None:
    for _ in range(3):
        _signal(victim, signal.SIGKILL, DECODER)
        time.sleep(0.3)


def _move(videos: Path, to: str) -> None:
    videos.rename(videos.with_name(to))


def _each_video(change: Callable[[Path], object]) -> Change:
    return lambda victim, world: [change(path) for path in sorted((world.folder / "videos").glob("*.mp4"))]


def _exchange(path: Path) -> None:
    """Replace a video by the same number of other bytes and keep the original beside it."""
    content = path.read_bytes()
    path.rename(path.with_suffix(".kept"))
    path.write_bytes(content[::-1])


def _nothing(victim: Victim, world: World) -> None:
    """Undo nothing."""


DISTURBANCES: dict[str, tuple[Change, Change]] = {
    "folder renamed": (
        lambda victim, world: _move(world.folder / "videos", "away"),
        lambda victim, world: _move(world.folder / "away", "videos"),
    ),
    "videos unlinked and linked again": (
        _each_video(lambda path: path.rename(path.with_suffix(".kept"))),
        lambda victim, world: [path.rename(path.with_suffix(".mp4")) for path in world.folder.glob("videos/*.kept")],
    ),
    "videos exchanged": (
        _each_video(_exchange),
        lambda victim, world: [path.replace(path.with_suffix(".mp4")) for path in world.folder.glob("videos/*.kept")],
    ),
    "modes changed": (
        _each_video(lambda path: path.chmod(0)),
        _each_video(lambda path: path.chmod(0o644)),
    ),
    "everything stopped": (
        lambda victim, world: _signal(victim, signal.SIGSTOP),
        lambda victim, world: _signal(victim, signal.SIGCONT),
    ),
    "decoders stopped": (
        lambda victim, world: _signal(victim, signal.SIGSTOP, DECODER),
        lambda victim, world: _signal(victim, signal.SIGCONT, DECODER),
    ),
    "decoders killed again and again": (_kill_decoders, _nothing),
}


def _put_in_place(source: Path, target: Path) -> None:
    """Replace a file, or each file of a folder, atomically."""
    if source.is_dir():
        for path in source.iterdir():
            _put_in_place(path, target / path.name)
        return
    copy = target.with_name(f"{target.name}.new")
    shutil.copyfile(source, copy)
    copy.replace(target)


def _check_exchanged(trial: Trial, old: dict[str, str], new: dict[str, str]) -> None:
    stored = contents(trial.store)
    for name in new:
        if name not in stored:
            trial.fail("lost", name)
    for name, digest in stored.items():
        expected = {each[name] for each in (old, new) if name in each}
        if expected and digest not in expected:
            trial.fail("wrong", f"{name} has other bytes")
