"""STAR, as downloaded: `STAR_{split}.json`, one JSON list."""

from pathlib import Path

from pipeline.datasets.adapter import About, Headline, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.options import of_text
from pipeline.datasets.readers.rows import Row, collect_split, read_json_list
from pipeline.datasets.readers.values import BadRow, clip, exact_text, text, video_name

name = "star"
about = About(
    title="STAR",
    splits={
        "train": (SplitFile("STAR_train.json", 45731),),
        "val": (SplitFile("STAR_val.json", 7098),),
        "test": (SplitFile("STAR_test.json", 7377),),
    },
    videos="{video_id}.mp4, the Charades videos (480p)",
    published="https://github.com/csbobby/STAR_Benchmark (annotations), https://prior.allenai.org/projects/charades (videos)",
    licence="the owners' repository states none; the videos are Charades', which has terms of its own",
    prompt="multiple_choice",
)
headline: Headline = "mean_of_groups"  # the paper's average is the unweighted mean of the four types

TYPES = ("Interaction", "Sequence", "Prediction", "Feasibility")
# Situation graphs and programs, most of the file, are not kept.
KEYS = ("question_id", "question", "video_id", "start", "end", "choices", "answer")


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one split, each about a part of a video. Raises MissingSourceError or SchemaError."""
    (file,) = find_files(about, path, split)
    return collect_split(about, read_json_list(file, KEYS[:-1], KEYS), _parse)


def group(question_type: str) -> str:
    """Return the type if it is one of the four, else ""."""
    return question_type if question_type in TYPES else ""


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    question_id = text("question_id", cells.get("question_id"))
    video_id = video_name("video_id", cells.get("video_id"))
    options = _options(cells.get("choices"))
    start_seconds, end_seconds, note = clip(cells.get("start"), cells.get("end"))
    question = Question(
        question_id=question_id,
        video_id=video_id,
        question=exact_text("question", cells.get("question")),
        options=options,
        answer_index=of_text(cells.get("answer"), options),
        question_type=kind if (kind := question_id.split("_")[0]) in TYPES else "",
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        note=note,
    )
    return question, Video(video_id, f"{video_id}.mp4")


def _options(choices: object) -> tuple[str, ...]:
    """Return the choices in file order, as the official preprocessing numbers them; `choice_id` is ignored."""
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, dict) for choice in choices):
        raise BadRow('choices is no list of at least two {"choice_id": ..., "choice": ...}')
    return tuple(exact_text(f"choice {index}", choice.get("choice")) for index, choice in enumerate(choices))
