"""Temporary failures while videos are read: they enter no artifact and lose no finished shard."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cache.errors import MachineError
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.video import attempts, decoding
from stages.all import STAGES
from tests import videos
from tests.decoders import readers_of, workers_of

SHARD_BYTES = 3 * 4 * 64 * 64 * 3  # three videos


class World:
    """Videos with a question each: `identify` registers them, `sample` reads them."""

    def __init__(self, folder: Path) -> None:
        self.videos = folder / "videos"
        self.videos.mkdir()
        self._folder = folder
        self.timeout_seconds = 60.0
        self.frames = 4

    def add(self, *names: str) -> Path:
        for number, name in enumerate(names):
            videos.make_video(self.videos / name, n_frames=12 + number)
        return self.videos / names[0]

    def identify(self) -> None:
        self.store = Store(self._folder / "store")
        line = {"question": "What is seen?", "options": ["a", "b"], "answer": 0}
        names = sorted(path.name for path in self.videos.iterdir())
        (self._folder / "q.jsonl").write_text("\n".join(json.dumps({"video": name, **line}) for name in names))
        places = {"annotations": [str(self._folder / "q.jsonl")], "videos": [str(self.videos)]}
        sources = Sources(self.store.digests, places)
        self.run = RunContext(self.store, device="cpu", shard_bytes=SHARD_BYTES, sources=sources)
        questions: Any = build(
            STAGES["list_questions"], STAGES["list_questions"].config(), self.run, [sources.annotations("plain", "")]
        )
        self.identified = sources.videos("plain", questions)

    def sample(self) -> dict[str, str]:
        """Sample frames, check their content, and return the failure reason of each video, empty where it was read."""
        stage = STAGES["sample_frames"]
        config = stage.config(frames=self.frames, size=64, decoder_timeout_seconds=self.timeout_seconds)
        frames: Any = build(stage, config, self.run, [self.identified])
        reader, rows = frames.open(), frames.rows("videos")
        for video_id, indices in frames.frame_indices().items():
            assert [videos.read_index(picture) for picture in reader.read(video_id, slice(None))] == list(indices)
        return {row["video_id"]: row["reason"] for row in rows}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """Actions that run in place of the pauses between attempts; further pauses do nothing."""
    during: list[Callable[[], object]] = []
    monkeypatch.setattr(attempts, "PAUSES_SECONDS", (1.0, 1.0))
    monkeypatch.setattr(attempts.time, "sleep", lambda seconds: during.pop(0)() if during else None)
    return during


def do_nothing() -> None:
    pass


@contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Run `work` in a thread; it ends when the event that it is given is set, at the latest at the end of the block."""
    is_over = threading.Event()
    thread = threading.Thread(target=work, args=(is_over,))
    thread.start()
    try:
        yield is_over
    finally:
        is_over.set()
        thread.join()


def test_a_briefly_missing_folder_fails_no_video(world: World, pauses: list[Callable[[], object]]) -> None:
    world.add("a.mp4", "b.mp4")
    world.identify()
    world.videos.rename(world.videos.with_name("moved"))
    pauses += [do_nothing, lambda: world.videos.with_name("moved").rename(world.videos)]
    assert world.sample() == {"a.mp4": "", "b.mp4": ""}


def test_a_missing_video_stops_the_stage_and_a_rerun_resumes(world: World, pauses: list[Callable[[], object]]) -> None:
    names = [f"{letter}.mp4" for letter in "abcdef"]
    world.add(*names)
    world.identify()
    gone = world.videos / "e.mp4"
    gone.rename(gone.with_name("elsewhere"))
    with pytest.raises(
        MachineError, match=r"video 'e\.mp4' .*: it cannot be read: No such file or directory; tried 3 times"
    ):
        world.sample()
    assert len(list((world.store.root / "partial").glob("sample_frames-*/progress/00000.json"))) == 1  # the first shard
    assert (
        len(list(world.store.root.glob("pool/sample_frames-*/*/*/*.json"))) == 5
    )  # and the others of the second shard
    for name in set(names) - {"e.mp4"}:  # a rerun does not read these
        (world.videos / name).unlink()
    gone.with_name("elsewhere").rename(gone)
    assert world.sample() == dict.fromkeys(names, "")


@pytest.mark.parametrize("broken", ["file", "image"])
def test_a_failed_read_is_a_machine_error_and_not_a_failed_row(
    world: World, pauses: list[Callable[[], object]], broken: str
) -> None:
    world.add("a.mp4")
    videos.make_image_folder(world.videos / "b")
    world.identify()
    path = world.videos / ("a.mp4" if broken == "file" else "b/3.jpg")
    original = path.rename(path.with_name("whole"))
    path.symlink_to("/proc/self/mem")  # reading it fails with "Input/output error"
    with pytest.raises(MachineError, match=r"it cannot be read: Input/output error"):
        world.sample()
    pauses += [do_nothing, lambda: original.rename(path)]
    assert world.sample() == {"a.mp4": "", "b": ""}


def test_changed_permissions_and_times_change_no_content(world: World) -> None:
    world.add("a.mp4", "b.mp4", "c.mp4")
    videos.make_image_folder(world.videos / "d")
    world.identify()
    (world.videos / "d" / "3.jpg").chmod(0o640)
    (world.videos / "a.mp4").chmod(0o640)
    os.utime(world.videos / "b.mp4", (1, 1))
    shutil.copy(world.videos / "c.mp4", world.videos / "copy")
    (world.videos / "copy").rename(world.videos / "c.mp4")
    assert world.sample() == {"a.mp4": "", "b.mp4": "", "c.mp4": "", "d": ""}


def test_a_file_changed_after_identification_is_an_error(world: World, pauses: list[Callable[[], object]]) -> None:
    right = world.add("right.mp4", "wrong.mp4").rename(world.videos.with_name("right.mp4"))
    link = world.videos / "link.mp4"
    link.symlink_to(right)
    world.identify()
    link.unlink()
    link.symlink_to("wrong.mp4")
    with pytest.raises(MachineError, match=r"'link\.mp4' .*: its content has changed since it was identified"):
        world.sample()

    def put_back() -> None:
        link.unlink()
        link.symlink_to(right)

    pauses += [put_back]
    assert world.sample() == {"wrong.mp4": "", "link.mp4": ""}


def test_repeatedly_killed_decoders_fail_no_video(world: World, pauses: list[Callable[[], object]]) -> None:
    world.add("a.mp4", "b.mp4")
    world.identify()

    def kill_all(is_over: threading.Event) -> None:
        while not is_over.wait(0.02):
            for worker in workers_of(os.getpid()):
                os.kill(worker, signal.SIGKILL)

    with in_background(kill_all) as is_over:
        pauses += [do_nothing, is_over.set]
        assert world.sample() == {"a.mp4": "", "b.mp4": ""}


def test_all_shards_are_decoded_by_the_same_processes_which_end_with_the_stage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{letter}.mp4" for letter in "abcdefg"]
    world.add(*names)
    world.identify()
    started: list[list[str]] = []
    start_process = subprocess.Popen

    def start(command: list[str], *arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(command)
        return start_process(command, *arguments, **options)

    monkeypatch.setattr(decoding.subprocess, "Popen", start)
    assert world.sample() == dict.fromkeys(names, "")
    decoders = [command for command in started if "decode_worker" in str(command)]
    assert 1 <= len(decoders) <= world.run.decode_workers  # not as many again for each of three shards
    assert not workers_of(os.getpid())


def test_decoders_that_do_not_start_fail_no_video(
    world: World, pauses: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("a.mp4")
    world.identify()
    executable = sys.executable
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(MachineError, match="its decoder process does not start"):
        world.sample()
    assert not workers_of(os.getpid())
    pauses += [lambda: monkeypatch.setattr(sys, "executable", executable)]
    assert world.sample() == {"a.mp4": ""}


def test_damaged_files_are_failed_rows_with_reasons(world: World) -> None:
    world.add("good.mp4")
    (world.videos / "empty.mp4").touch()
    videos.make_garbage(world.videos / "garbage.mp4")
    videos.make_faststart_cut(world.videos / "cut.mp4", n_frames=120)
    (world.videos / "folder").mkdir()
    (world.videos / "folder" / "1.jpg").write_bytes(b"no picture")
    world.identify()
    reasons = {name: reason.split(":")[0] for name, reason in world.sample().items()}
    assert reasons.pop("folder") in ("unreadable", "corrupt")
    assert reasons == {"good.mp4": "", "empty.mp4": "empty", "garbage.mp4": "unreadable", "cut.mp4": "truncated"}


@pytest.mark.parametrize("others", [[], ["good.mp4"]])
def test_a_video_on_which_every_decoder_hangs_is_a_failed_row(world: World, others: list[str]) -> None:
    if others:
        world.add(*others)
    videos.make_huge_picture(world.videos / "huge")
    world.timeout_seconds = 0.25
    world.identify()
    timeout = "timeout: no sign of life from the decoder in 0.25 s of computing"
    assert world.sample() == dict.fromkeys(others, "") | {"huge": timeout}
    world.timeout_seconds = 60  # another artifact, so that the failed row is not reused
    assert world.sample() == dict.fromkeys([*others, "huge"], "")


def test_a_video_on_which_every_decoder_crashes_is_a_failed_row(world: World) -> None:
    world.add("good.mp4")
    huge = videos.make_huge_picture(world.videos / "huge")
    world.identify()

    def crash(is_over: threading.Event) -> None:
        while not is_over.wait(0.02):
            for worker in readers_of(huge):
                os.kill(worker, signal.SIGSEGV)

    with in_background(crash):
        reasons = world.sample()
    assert reasons == {
        "good.mp4": "",
        "huge": f"crashed: the decoder process ended with status -{signal.SIGSEGV.value}",
    }


def test_a_decoder_that_stops_after_reading_its_file_is_a_failed_row(
    world: World, pauses: list[Callable[[], object]]
) -> None:
    huge = videos.make_huge_picture(world.videos / "a_huge")
    world.add("good.mp4")
    world.timeout_seconds = 0.4
    world.identify()

    def stop(is_over: threading.Event) -> None:
        while not is_over.wait(0.02):
            for worker in readers_of(huge):
                is_over.wait(0.1)  # it has read the file and decodes
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGSTOP)

    with in_background(stop):
        reasons = world.sample()
    assert reasons == {"good.mp4": "", "a_huge": "timeout: the decoder neither computed nor answered for 2 s"}


def test_damage_after_the_first_frames_is_a_failed_row_with_both_decoders_errors(world: World) -> None:
    path = videos.make_video(world.videos / "a.mp4", n_frames=900, gop=1)
    content = bytearray(path.read_bytes())
    place = content.index(b"mdat") + (content.index(b"moov") - content.index(b"mdat")) * 9 // 10
    content[place : place + 400] = bytes(400)
    path.write_bytes(content)
    world.identify()
    world.frames = 900
    (reason,) = world.sample().values()
    assert reason.startswith("corrupt: decord: ") and "; pyav: Invalid data found" in reason


def test_a_crash_that_does_not_repeat_fails_no_video(world: World) -> None:
    world.add("good.mp4")
    huge = videos.make_huge_picture(world.videos / "huge")
    world.identify()

    def crash_twice(is_over: threading.Event) -> None:
        n_left = 2
        while n_left and not is_over.wait(0.02):
            for worker in readers_of(huge):
                os.kill(worker, signal.SIGSEGV)
                n_left -= 1
                while worker in workers_of(os.getpid()):
                    is_over.wait(0.02)

    with in_background(crash_twice):
        reasons = world.sample()
    assert reasons == {"good.mp4": "", "huge": ""}
