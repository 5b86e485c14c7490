"""MLVU, the multiple-choice tasks of its dev set: the hub's Parquet, or the owners' json, one file a task (`1_plotQA.json`)."""

from itertools import chain
from pathlib import Path

from pipeline.datasets.adapter import About, Headline, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.options import of_letter, of_text, options_of, without_options
from pipeline.datasets.readers.parquet_file import read_annotation_table
from pipeline.datasets.readers.rows import Row, Rows, collect_split
from pipeline.datasets.readers.values import text, video_name

name = "mlvu"
N_QUESTIONS = {  # by the stem of the owners' file, which is also the name of its videos' folder
    "1_plotQA": 539,
    "2_needle": 355,
    "3_ego": 352,
    "4_count": 206,
    "5_order": 259,
    "6_anomaly_reco": 200,
    "7_topic_reasoning": 263,
}
FOLDERS = {folder.split("_", 1)[1]: folder for folder in N_QUESTIONS}  # by task
PARQUET = "test-00000-of-00001.parquet"  # the hub's name of the dev set
about = About(
    title="MLVU",
    splits={"dev": (SplitFile(PARQUET, sum(N_QUESTIONS.values())),)}
    | {task: (SplitFile(f"{folder}.json", N_QUESTIONS[folder]),) for task, folder in FOLDERS.items()},
    videos="1_plotQA/{video}, ... as the owners' folder video/ has them (in several of which other videos have the same names), "
    "or all in one folder",
    published="https://huggingface.co/datasets/MLVU/MVLU (json/ and video/, on request), "
    "https://huggingface.co/datasets/sy1998/MLVU_dev (Parquet)",
    licence="CC BY-NC-SA 4.0; the videos are their owners'",
    prompt="multiple_choice",
)
headline: Headline = "mean_of_groups"  # M-Avg, the unweighted mean of the tasks

REQUIRED = ("question", "candidates")


def files(path: Path, split: str) -> list[Path]:
    """Return the annotation files: for split dev the Parquet, or the file of every task if the folder has no Parquet.

    Raises MissingSourceError for a missing file.
    """
    tasks = [path / f"{folder}.json" for folder in N_QUESTIONS]
    if split != "dev" or (path / PARQUET).exists() or not any(file.exists() for file in tasks):
        return find_files(about, path, split)
    return list(chain.from_iterable(find_files(about, path, task) for task in FOLDERS))


def read(path: Path, split: str) -> Annotations:
    """Return the questions of one split, without the options that their text repeats. Raises MissingSourceError or SchemaError.

    A row of a json file has no id; it becomes "{task}#{n}" for the n-th row (from 0) of its file.
    """
    parts = [collect_split(about, _rows(file), _parse) for file in files(path, split)]
    return Annotations(
        questions=[question for part in parts for question in part.questions],
        videos=[video for part in parts for video in part.videos],
        rejected=[rejected for part in parts for rejected in part.rejected],
    )


def group(question_type: str) -> str:
    """Return the task, which is the type."""
    return question_type


def _rows(file: Path) -> Rows:
    """Return the rows of either layout, with ids and tasks as in the Parquet."""
    if file.suffix.lower() == ".parquet":
        required = ("question_id", "video_name", *REQUIRED)
        return read_annotation_table(file, required, (*required, "answer", "task_type"))
    table = read_annotation_table(file, ("video", *REQUIRED), ("video", *REQUIRED, "answer", "question_type"))
    task_of_file = next((task for task, folder in FOLDERS.items() if folder == file.stem), file.stem)
    rows = []
    for number, row in enumerate(table.rows):
        task = row.cells.get("question_type") or task_of_file
        parquet_cells = {"task_type": task, "question_id": f"{task_of_file}#{number}"}
        rows.append(Row(row.line, row.cells | parquet_cells, row.place))
    return Rows(table.file, table.columns, rows, table.rejected)


def _parse(row: Row) -> tuple[Question, Video]:
    cells = row.cells
    key = "video_name" if "video_name" in cells else "video"
    file_name = video_name(key, cells.get(key))
    task = text("task_type", cells.get("task_type"), "")
    # Videos of two tasks may have the same name; if all are in one folder, they are the same file.
    folders = [f"{FOLDERS[task]}/", f"video/{FOLDERS[task]}/", f"{task}/", ""] if task in FOLDERS else [""]
    path, *others = [folder + file_name for folder in folders]
    options, answer = options_of("candidates", cells.get("candidates")), cells.get("answer")
    question = Question(
        question_id=text("question_id", cells.get("question_id")),
        video_id=path,
        question=without_options(text("question", cells.get("question")), options),
        options=options,
        answer_index=of_text(answer, options) if key == "video" else of_letter(answer, len(options)),
        question_type=task,
    )
    return question, Video(path, path, tuple(others))
