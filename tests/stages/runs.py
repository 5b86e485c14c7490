"""Helpers that run the command on the demo data set and read the artifacts of a store."""

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from cache.record import Record
from cache.store import Store
from cli import main
from pipeline.inference.backbone import Backbone
from reports.answer_table import answers_in_words
from stages.answer_questions import Answers
from stages.evaluate import Metrics
from stages.extract_features import Features
from stages.init_answerer import AnswererWeights
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.select_keyframes import Keyframes
from tests.small_world import SMALL
from tests.tiny_blip2 import write_tiny_blip2

UNIFORM = ("--set", "select_keyframes.method=uniform")

KINDS = {
    kind.kind: kind
    for kind in (Questions, Frames, Features, FrameScores, Keyframes, Answers, Metrics, Backbone, AnswererWeights)
}


def places(demo: Path, store: Path) -> list[str]:
    """Return the options with the paths of the demo and of the store."""
    options = ["--annotations", f"{demo / 'questions.csv'}", "--videos", f"{demo / 'videos'}"]
    return [*options, "--weights", f"tiny-blip2={demo / 'tiny-blip2'}", "--store", f"{store}", "--device", "cpu"]


def arguments(command: str, demo: Path, store: Path, *more: str) -> list[str]:
    name = [command, *more[:1]] if command == "stage" else [command]
    return [*name, SMALL, *places(demo, store), *(more[1:] if command == "stage" else more)]


def sevila(command: str, demo: Path, store: Path, *more: str) -> int:
    return main(arguments(command, demo, store, *more))


def artifact(store: Path, kind: str) -> Any:
    """Return the newest artifact of a kind."""
    records = [Store(store).record(id) for id in Store(store)]
    newest = max((record for record in records if record.kind == kind), key=lambda record: record.finished)
    return KINDS[kind](Store(store), newest.id)


def records(store: Path) -> dict[str, Record]:
    return {id: Store(store).record(id) for id in Store(store)}


def files(store: Path) -> dict[str, dict[str, str]]:
    return {id: {name: file["sha256"] for name, file in record.files.items()} for id, record in records(store).items()}


def built_since(before: set[str], store: Path) -> Counter[str]:
    """Return the number of artifacts by stage that a store has in addition to those of `before`."""
    return Counter(record.stage for id, record in records(store).items() if id not in before)


def json_rows(demo: Path) -> list[dict[str, Any]]:
    """Return the rows of the demo's questions.csv as those of a questions.jsonl."""
    with (demo / "questions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    options = [[row[f"a{index}"] for index in range(4) if row[f"a{index}"]] for row in rows]
    names = ("video", "question", "options", "answer")
    return [
        {name: (row | {"options": texts})[name] for name in names} for row, texts in zip(rows, options, strict=True)
    ]


def edited(demo: Path, folder: Path, edit: Any) -> Path:
    """Return a copy of the demo with its question rows changed by `edit`."""
    shutil.copytree(demo, folder)
    with (folder / "questions.csv").open(newline="") as stream:
        rows = edit(list(csv.DictReader(stream)))
    with (folder / "questions.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def as_answered(demo: Path, finished: Path, folder: Path) -> Path:
    """Return a copy of the demo in which every answer of a finished run is the right one."""
    words = answers_in_words(Store(finished), artifact(finished, "answers").record.id)
    answers = {(row.video_id, row.question): row.answer for row in words if not row.reason}
    return edited(
        demo,
        folder,
        lambda rows: [row | {"answer": answers.get((row["video"], row["question"]), row["answer"])} for row in rows],
    )


def with_other_weights(world: Path, folder: Path) -> Path:
    """Return a copy of a world whose model has other weights under the same name."""
    shutil.copytree(world, folder)
    shutil.rmtree(folder / "tiny-blip2")
    words = (world / "questions.csv").read_text().replace(",", " ").split()
    write_tiny_blip2(folder / "tiny-blip2", 1, words=sorted(set(words)))
    return folder
