"""Every kind of bad and unusual video in one batch: each becomes a row with a failure reason or the requested frames."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from stages.all import STAGES
from tests import videos
from tests.faults.victims import fork, output_tail
from tests.faults.world import Trial

FRAMES, SIZE = 6, 112
OK = "ok"


def _video(**options: Any) -> Callable[[Path], object]:
    return lambda path: videos.make_video(path, **options)


def _damaged(path: Path) -> None:
    content = bytearray(videos.make_video(path, n_frames=120).read_bytes())
    middle = content.index(b"mdat") + 3000
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)


def _with_gaps(path: Path) -> None:
    videos.make_image_folder(path)
    for number in (3, 7, 8):
        (path / f"{number}.jpg").unlink()


def _rotated(path: Path) -> None:
    videos.rotate(videos.make_video(path, size=(64, 64)), 90)


# File or folder name, the function that writes it, and the beginning of the expected failure reason (`OK`: it is readable).
KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero_byte.mp4": (Path.touch, "empty: "),
    "garbage.mp4": (videos.make_garbage, "unreadable: "),
    "text.mp4": (lambda path: path.write_text("<html>404 not found</html>\n" * 50), "unreadable: "),
    "audio_only.mp4": (videos.make_audio_only, "no_video_stream: "),
    "cut.mp4": (videos.make_truncated, "unreadable: "),
    "cut.mkv": (videos.make_truncated, "truncated: "),
    "cut.webm": (lambda path: videos.make_truncated(path, codec="libvpx-vp9"), "truncated: "),
    "cut_faststart.mp4": (lambda path: videos.make_faststart_cut(path, n_frames=120), "truncated: "),
    "cut_faststart_at_the_end.mp4": (lambda path: videos.make_faststart_cut(path, 0.97, n_frames=120), "truncated: "),
    "damaged_inside.mp4": (_damaged, "corrupt: "),
    "empty_folder": (lambda path: path.mkdir(), "no_video_stream: "),
    "hangs.mp4": (os.mkfifo, ""),  # any reason: the run must not hang
    "broken_link.mp4": (lambda path: path.symlink_to("nowhere"), "missing: "),
    "gone.mp4": (lambda path: None, "missing: "),
    "h264.ts": (_video(), OK),
    "cut.ts": (lambda path: videos.make_truncated(path, 0.6), "?"),
    "av1.mp4": (_video(codec="libsvtav1", codec_options={"svtav1-params": "lp=1"}), OK),
    "vp9.webm": (_video(codec="libvpx-vp9"), OK),
    "vp8.webm": (_video(codec="libvpx"), OK),
    "h265.mp4": (_video(codec="libx265", codec_options={"x265-params": "log-level=none"}), OK),
    "edit_list.mp4": (lambda path: videos.make_edit_list(path, n_skipped=5), OK),
    "variable_rate.mp4": (_video(ticks=[i + i * i // 20 for i in range(48)]), OK),
    "variable_rate.mkv": (_video(ticks=[i + i * i // 20 for i in range(48)]), OK),
    "rotated.mp4": (_rotated, "rotated"),
    "open_gop.mp4": (_video(codec_options={"x264-params": "open-gop=1:bframes=3"}), OK),
    "b_frames.avi": (_video(codec="mpeg4", codec_options={"bf": "2"}), OK),
    "mpeg2.mpg": (_video(codec="mpeg2video", fps=25), OK),
    "ten_bits.mp4": (_video(pixel_format="yuv420p10le"), OK),
    "starts_late.mp4": (_video(ticks=range(30, 78), with_audio=True), OK),
    "one_frame.mkv": (_video(n_frames=1), OK),
    "frames": (videos.make_image_folder, OK),
    "frames_png": (lambda path: videos.make_image_folder(path, suffix=".png"), OK),
    "frames_with_gaps": (_with_gaps, "gaps"),
    "vidéo — 视频 %d.mp4": (_video(), OK),
}


def in_one_batch(trial: Trial) -> None:
    """List questions about all the videos and sample their frames; each kind counts as one fault."""
    folder, result = trial.folder / "videos", trial.folder / "rows.json"
    folder.mkdir()
    names = sorted(KINDS)
    trial.rng.shuffle(names)
    for name in names:
        KINDS[name][0](folder / name)
    line = {"question": "What is seen?", "options": ["a", "b"], "answer": 0}
    lines = [json.dumps({"video": name, **line}) for name in names]
    (trial.folder / "questions.jsonl").write_text("\n".join(lines))

    def work() -> None:
        result.write_text(json.dumps(_sampled(trial)))

    status = fork(work, trial.store, trial.beside).finish()
    if status:
        trial.tally.tried += len(names)
        trial.fail("lost", f"the batch ended with status {status}: {output_tail(trial.beside, 2000)}")
        return
    rows = json.loads(result.read_text())
    missing = {"status": "no row", "reason": "", "note": "", "requested": [], "shown": []}
    for name in names:
        expected, row = KINDS[name][1], rows.get(name, missing)
        trial.tally.tried += 1
        trial.tally.where["read" if row["status"] == "ok" else row["reason"].split(":")[0]] += 1
        if not _is_correct(expected, row) or str(trial.folder) in row["reason"] + row["note"]:
            trial.fail("wrong", f"{name}: {row}, expected {expected or 'a reason'}")
        else:
            trial.tally.survived += 1


def _is_correct(expected: str, row: dict[str, Any]) -> bool:
    shows_requested_frames = row["status"] == "ok" and row["requested"] == row["shown"] and len(row["requested"]) > 0
    if expected in (OK, "?"):
        return shows_requested_frames or (expected == "?" and row["status"] == "failed" and bool(row["reason"]))
    if expected == "rotated":  # its index code is rotated too; test_decoding.py checks its content
        return row["status"] == "ok"
    if expected == "gaps":
        return row["status"] == "ok" and "3 numbers of the image sequence are missing" in row["note"]
    return row["status"] == "failed" and row["reason"].startswith(expected) and bool(row["reason"])


def _sampled(trial: Trial) -> dict[str, dict[str, Any]]:
    """Return each video's row with the indices of the requested frames and those shown by the stored frames."""
    store = Store(trial.store)
    places = {"annotations": [str(trial.folder / "questions.jsonl")], "videos": [str(trial.folder / "videos")]}
    run = RunContext(store, device="cpu", shard_bytes=1 << 18, sources=Sources(store.digests, places))
    assert run.sources is not None
    listing, sampling = STAGES["list_questions"], STAGES["sample_frames"]
    questions = build(listing, listing.config(), run, [run.sources.annotations("plain", "")])
    config = sampling.config(frames=FRAMES, size=SIZE, decoder_timeout_seconds=5.0)
    frames: Any = build(sampling, config, run, [run.sources.videos("plain", questions)])  # type: ignore[arg-type]
    reader, rows = frames.open(), {}
    for row in frames.rows("videos"):
        name = row["video_id"]
        row |= {"requested": [], "shown": []}
        if row["status"] == "ok":
            pictures = reader.read(name, slice(None))
            row["shown"] = [videos.read_index(picture) - (5 if name == "edit_list.mp4" else 0) for picture in pictures]
            table = [each for each in frames.rows("frames") if each["video_id"] == name]
            row["requested"] = [index for index in dict.fromkeys(each["frame_index"] for each in table)]
        rows[name] = row
    return rows
