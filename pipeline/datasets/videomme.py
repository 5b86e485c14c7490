"""Video-MME: `videomme.json`, one list of questions, or the hub's Parquet with the same keys."""

from pathlib import Path

from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.options import of_letter, options_of
from pipeline.datasets.readers.parquet_file import read_annotation_table
from pipeline.datasets.readers.rows import Row, collect_split
from pipeline.datasets.readers.values import text, video_name

name = "videomme"
about = About(
    title="Video-MME",
    splits={"test": (SplitFile("videomme.json", 2700), SplitFile("test-00000-of-00001.parquet", 2700))},
    same_questions=True,
    videos="{videoID}.mp4, as in fFjv93ACGo8.mp4: what the hub's archives hold under data/",
    published="https://huggingface.co/datasets/lmms-lab/Video-MME (folder videomme/, and the videos)",
    licence="for academic research only, as the owners state (https://github.com/MME-Benchmarks/Video-MME)",
    prompt="multiple_choice",
    subtitles=("subtitle", "../subtitle"),
)

DURATIONS = ("short", "medium", "long")
DOMAINS = (
    "Knowledge",
    "Film & Television",
    "Sports Competition",
    "Artistic Performance",
    "Life Record",
    "Multilingual",
)
# A type is "short, Knowledge", its group the duration; the owners also report each domain over all durations.
pooled_types = {domain: tuple(f"{duration}, {domain}" for duration in DURATIONS) for domain in DOMAINS}

REQUIRED = ("videoID", "question_id", "question", "options")


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one split. Raises MissingSourceError or SchemaError."""
    (file,) = find_files(about, path, split)
    return collect_split(
        about, read_annotation_table(file, REQUIRED, (*REQUIRED, "answer", "duration", "domain")), _parse
    )


def group(question_type: str) -> str:
    """Return the duration of the video: short, medium or long; "" for another type."""
    duration = question_type.split(", ")[0]
    return duration if duration in DURATIONS else ""


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    video_id = video_name("videoID", cells.get("videoID"))
    options = options_of("options", cells.get("options"))
    question = Question(
        question_id=text("question_id", cells.get("question_id")),
        video_id=video_id,
        question=text("question", cells.get("question")),
        options=options,
        answer_index=of_letter(cells.get("answer"), len(options)),
        question_type=", ".join(filter(None, (text(key, cells.get(key), "") for key in ("duration", "domain")))),
    )
    return question, Video(video_id, f"{video_id}.mp4", (f"data/{video_id}.mp4",))
