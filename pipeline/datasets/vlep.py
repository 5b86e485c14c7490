"""VLEP, as downloaded: `vlep_{split}_release.jsonl`; two possible next events after a part of a clip."""

from pathlib import Path

from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import NEXT_EVENT_QUESTION, Annotations, Question, Video
from pipeline.datasets.readers.rows import Row, collect_split, read_jsonl
from pipeline.datasets.readers.values import BadRow, clip, exact_text, option_index, text, video_name
from pipeline.datasets.tvqa import clip_paths

name = "vlep"
about = About(
    title="VLEP",
    splits={
        "train": (SplitFile("vlep_train_release.jsonl", 20142),),
        "dev": (SplitFile("vlep_dev_release.jsonl", 4392),),
        "test": (SplitFile("vlep_test_release.jsonl", 4192),),
    },
    videos="{vid_name}.mp4 for YouTube (names with colons); for television TVQA's clips, vid_name less its _ep",
    published="https://github.com/jayleicn/VideoLanguageFuturePred (clips and frames on request)",
    licence="CC BY-NC-SA 4.0 (as the VALUE benchmark states for its authors); frames not to be shared",
    prompt="next_event",
)

N_EVENTS = 2
TELEVISION, YOUTUBE = "TV show", "YouTube"


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one split, all with the text of the official prompt. Raises MissingSourceError or SchemaError."""
    (file,) = find_files(about, path, split)
    return collect_split(about, read_jsonl(file, ("example_id", "vid_name", "ts", "events")), _parse)


def group(question_type: str) -> str:
    """Return the source, which is the type: "TV show" or "YouTube"; "" for another."""
    return question_type if question_type in (TELEVISION, YOUTUBE) else ""


def source(vid_name: str) -> str:
    """Return the source of a clip. Names of YouTube clips contain a time, so a colon (official data set code)."""
    return YOUTUBE if ":" in vid_name else TELEVISION


def video(vid_name: str) -> Video:
    """Return a clip with its possible paths.

    The official code reads a television clip as TVQA's clip of that name without the suffix "_ep", and a YouTube clip by its
    full name. A file with the other form of the name is the same clip.
    """
    if source(vid_name) == YOUTUBE:
        return Video(vid_name, f"{vid_name}.mp4", (vid_name,))
    path, *others = dict.fromkeys((*clip_paths(vid_name.removesuffix("_ep")), *clip_paths(vid_name)))
    return Video(vid_name, path, tuple(others))


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    video_id = video_name("vid_name", cells.get("vid_name"))
    bounds, events = cells.get("ts"), cells.get("events")
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise BadRow(f"ts is {bounds!r}, [start, end] in seconds was wanted")
    if not isinstance(events, list) or len(events) != N_EVENTS:
        raise BadRow(f"events is {events!r}, a list of {N_EVENTS} texts was wanted")
    start_seconds, end_seconds, note = clip(*bounds)
    question = Question(
        question_id=text("example_id", cells.get("example_id")),
        video_id=video_id,
        question=NEXT_EVENT_QUESTION,
        options=tuple(exact_text(f"event {index}", event) for index, event in enumerate(events)),
        answer_index=option_index("answer", cells.get("answer"), N_EVENTS),
        question_type=source(video_id),
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        note=note,
    )
    return question, video(video_id)
