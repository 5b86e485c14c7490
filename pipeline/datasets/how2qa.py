"""How2QA, in both published layouts: `how2QA_{split}_release.csv`, and `how2qa_{split}_release.jsonl` of the VALUE benchmark."""

import hashlib
import json
from collections import Counter
from pathlib import Path

from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Rejected, Video
from pipeline.datasets.readers.rows import Row, Rows, collect_split, question_of_clip, read_csv, read_jsonl

name = "how2qa"
about = About(
    title="How2QA",
    splits={  # the owners give no sizes for the CSV files
        "train": (SplitFile("how2QA_train_release.csv", None), SplitFile("how2qa_train_release.jsonl", 34187)),
        "val": (SplitFile("how2QA_val_release.csv", None), SplitFile("how2qa_val_release.jsonl", 3115)),
        "test_public": (
            SplitFile("how2QA_test_public_release.csv", None),
            SplitFile("how2qa_test_public_release.jsonl", 3095),
        ),
    },
    videos="{video}.mp4: with .csv the YouTube id, with .jsonl the benchmark's own name of a one-minute clip",
    published="https://github.com/ych133/How2R-and-How2QA (.csv), https://github.com/VALUE-Leaderboard/DataRelease (.jsonl)",
    licence=".csv: MIT; .jsonl: CC BY-NC-SA 4.0; the videos are YouTube's",
    prompt="multiple_choice",
)

# Columns of the CSV files, which have no header; vid_name, ts and q are keys of the other layout.
COLUMNS = ("vid_name", "ts", "wrong1", "wrong2", "wrong3", "q", "right")
OPTIONS = ("a0", "a1", "a2", "a3")


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one split, each about a part of a video. Raises MissingSourceError or SchemaError.

    A row of a CSV file has no id; it becomes "{video}{[start:end]}", followed by "#2", "#3", ... for additional rows about the
    same part of the same video.
    """
    (file,) = find_files(about, path, split)
    if file.suffix.lower() == ".csv":
        table = _with_ids_and_options(read_csv(file, COLUMNS, COLUMNS))
    else:
        table = read_jsonl(file, ("vid_name", "ts", "q", *OPTIONS, "qid"))
    return collect_split(about, table, _parse)


def right_position(cells: dict[str, str]) -> int:
    """Return the position of a CSV row's correct option among the four; the file gives it a separate column, so no position.

    The position depends on the row's content alone, so that a question has the same option order on every machine, independent
    of other rows: the SHA-256 of its seven cells as a JSON list, as a number, modulo 4.
    """
    digest = hashlib.sha256(json.dumps([cells[column] for column in COLUMNS]).encode()).digest()
    return int.from_bytes(digest) % len(OPTIONS)


def _with_ids_and_options(table: Rows) -> Rows:
    """Return the rows of a CSV file with the keys of the other layout."""
    rows = []
    rows_of_clip: Counter[str] = Counter()
    for row in table.rows:
        clip_name = row.cells["vid_name"].strip() + row.cells["ts"].strip()
        rows_of_clip[clip_name] += 1
        number = rows_of_clip[clip_name]
        empty = [column for column in COLUMNS if not row.cells[column].strip()]
        if empty:  # rejected here, as the message needs the file's column names
            table.rejected.append(Rejected(table.file, row.line, f"{' and '.join(empty)} missing or empty"))
            continue
        answer_index = right_position(row.cells)
        options = [row.cells[column] for column in ("wrong1", "wrong2", "wrong3")]
        options.insert(answer_index, row.cells["right"])
        cells = {key: row.cells[key] for key in ("vid_name", "ts", "q")} | dict(zip(OPTIONS, options, strict=True))
        cells |= {"answer_idx": str(answer_index), "qid": clip_name if number == 1 else f"{clip_name}#{number}"}
        rows.append(Row(row.line, cells))
    return Rows(table.file, table.columns, rows, table.rejected)


def _parse(row: Row) -> tuple[Question, Video]:
    question = question_of_clip(row.cells, OPTIONS)
    return question, Video(question.video_id, f"{question.video_id}.mp4")
