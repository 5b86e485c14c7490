"""Running the command on the demo data set, and reading what it left in a store."""

import csv
import shutil
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


def arguments(command: str, demo: Path, store: Path, *more: str) -> list[str]:
    name = [command, *more[:1]] if command == "stage" else [command]
    places = ["--annotations", f"{demo / 'questions.csv'}", "--videos", f"{demo / 'videos'}"]
    places += ["--weights", f"tiny-blip2={demo / 'tiny-blip2'}", "--store", f"{store}", "--device", "cpu"]
    return [*name, SMALL, *places, *(more[1:] if command == "stage" else more)]


def sevila(command: str, demo: Path, store: Path, *more: str) -> int:
    return main(arguments(command, demo, store, *more))


def artifact(store: Path, kind: str) -> Any:
    """The newest artifact of a kind."""
    records = [Store(store).record(id) for id in Store(store)]
    newest = max((record for record in records if record.kind == kind), key=lambda record: record.finished)
    return KINDS[kind](Store(store), newest.id)


def records(store: Path) -> dict[str, Record]:
    return {id: Store(store).record(id) for id in Store(store)}


def files(store: Path) -> dict[str, dict[str, str]]:
    return {id: {name: file["sha256"] for name, file in record.files.items()} for id, record in records(store).items()}


def edited(demo: Path, folder: Path, edit: Any) -> Path:
    """A copy of the demo whose rows `edit` has changed."""
    shutil.copytree(demo, folder)
    with (folder / "questions.csv").open(newline="") as stream:
        rows = edit(list(csv.DictReader(stream)))
    with (folder / "questions.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def as_answered(demo: Path, finished: Path, folder: Path) -> Path:
    """A copy of the demo as its model sees it: whatever it answered in a finished run is right."""
    words = answers_in_words(Store(finished), artifact(finished, "answers").record.id)
    said = {(row.video_id, row.question): row.answer for row in words if not row.reason}
    return edited(
        demo,
        folder,
        lambda rows: [row | {"answer": said.get((row["video"], row["question"]), row["answer"])} for row in rows],
    )


def with_other_weights(world: Path, folder: Path) -> Path:
    """A copy of a world whose model, under the same name, has other weights."""
    shutil.copytree(world, folder)
    shutil.rmtree(folder / "tiny-blip2")
    words = (world / "questions.csv").read_text().replace(",", " ").split()
    write_tiny_blip2(folder / "tiny-blip2", 1, words=sorted(set(words)))
    return folder
