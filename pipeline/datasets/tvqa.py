"""TVQA, as downloaded: `tvqa_{split}.jsonl`; the videos are folders of frames at 3 per second."""

import re
from dataclasses import replace
from pathlib import Path

from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.rows import Row, collect_split, question_of_clip, read_jsonl
from pipeline.datasets.readers.values import text

name = "tvqa"
about = About(
    title="TVQA",
    splits={
        "train": (SplitFile("tvqa_train.jsonl", 122039),),
        "val": (SplitFile("tvqa_val.jsonl", 15253),),
        "test_public": (SplitFile("tvqa_test_public.jsonl", 7623),),
        "test": (SplitFile("tvqa_test_release.jsonl", 15253),),  # in the VALUE benchmark's release
    },
    videos="{show}_frames/{vid_name}/00001.jpg ..., as handed out; or {vid_name}.mp4",
    published="https://tvqa.cs.unc.edu (frames on request)",
    licence="CC BY-NC-SA 4.0 (as the VALUE benchmark states for its authors); frames under an agreement",
    prompt="multiple_choice",
    subtitles=("tvqa_subtitles", "../tvqa_subtitles"),
)

OPTIONS = ("a0", "a1", "a2", "a3", "a4")
# Prefix of a clip's name -> the show, spelled as in the files. Clips of The Big Bang Theory have no prefix.
SHOWS = {
    "bbt": "The Big Bang Theory",
    "castle": "Castle",
    "friends": "Friends",
    "grey": "Grey's Anatomy",
    "house": "House M.D.",
    "met": "How I Met You Mother",
}


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one split, each about a part of a clip. Raises MissingSourceError or SchemaError."""
    (file,) = find_files(about, path, split)
    return collect_split(about, read_jsonl(file, ("vid_name", "ts", "q", *OPTIONS, "qid")), _parse)


def group(question_type: str) -> str:
    """Return the show, which is the type; "" for none."""
    return question_type


def show_prefix(vid_name: str) -> str:
    """Return the key in SHOWS of a clip's show; "" if the name does not match any."""
    match = re.match(r"(?:([a-z]+)_)?s\d+e\d+_", vid_name)
    prefix = (match[1] or "bbt") if match else ""
    return prefix if prefix in SHOWS else ""


def clip_paths(vid_name: str) -> tuple[str, ...]:
    """Return the path of a clip in the published folders of frames, and an alternative path."""
    prefix = show_prefix(vid_name)
    return (f"{prefix}_frames/{vid_name}", vid_name) if prefix else (vid_name,)


def _parse(row: Row) -> tuple[Question, Video]:
    question = question_of_clip(row.cells, OPTIONS)
    by_name = SHOWS.get(show_prefix(question.video_id), "")
    path, *others = clip_paths(question.video_id)
    show = text("show_name", row.cells.get("show_name"), by_name)
    return replace(question, question_type=show), Video(question.video_id, path, tuple(others))
