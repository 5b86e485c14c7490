"""Every published layout of annotation files, with functions that write raw rows as that file and read them back.

`test_layouts.py` tests all of them; features of one data set are tested in its own file. Rows are copied from the
published files or, where quoting is not allowed, invented in their form.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets import how2qa, nextqa, qvhighlights, sevila_json, star, tvqa, vlep
from pipeline.datasets.question import Annotations

Raw = dict[str, Any]
ClipKeys = Callable[[str, str], Raw]


@dataclass(frozen=True)
class Layout:
    """One layout: `rows` are two valid rows about different videos, the keys name their fields."""

    adapter: ModuleType
    split: str
    file_name: str
    kind: str  # csv, bare_csv (no header), jsonl, json or parquet
    rows: list[Raw]
    video_key: str
    question_key: str | None
    option_keys: tuple[str, ...] = ()
    answer_key: str | None = None
    id_keys: tuple[str, ...] = ()
    clip: ClipKeys | None = None
    beside: dict[str, str] = field(default_factory=dict)
    required: str = ""  # a key that every row must have
    options_key: str = ""  # of a list of options

    @property
    def name(self) -> str:
        if self.kind in ("parquet", "json") and self.file_name not in ("STAR_val.json", "val.json"):
            return f"{self.adapter.name}-{self.kind}"
        return self.file_name if self.adapter is not sevila_json else f"{self.file_name}-{self.rows[0]['qid']}"

    def content(self, rows: list[Raw]) -> str | bytes:
        """Return the rows as the content of this kind of file."""
        if self.kind == "parquet":
            return parquet(rows)
        if self.kind == "json":
            return "[" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "]"
        if self.kind == "jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        if self.kind == "csv":
            writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)
        return stream.getvalue()

    def read(self, folder: Path, rows: list[Raw] | str | bytes) -> Annotations:
        """Write rows, or the content of a file, where the adapter expects them, and read them with it."""
        content = self.content(rows) if isinstance(rows, list) else rows
        (folder / self.file_name).write_bytes(content if isinstance(content, bytes) else content.encode())
        for name, text in self.beside.items():
            (folder / name).write_text(text)
        annotations: Annotations = self.adapter.read(folder, self.split)
        return annotations


def parquet(rows: list[Raw]) -> bytes:
    """Return a Parquet file with the union of the rows' columns."""
    stream = io.BytesIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    pq.write_table(pa.table({key: [row.get(key) for row in rows] for key in columns}), stream)
    return stream.getvalue()


def dashed(start: str, end: str) -> Raw:
    return {"ts": f"{start}-{end}"}


def bracketed(start: str, end: str) -> Raw:
    return {"ts": f"[{start}:{end}]"}


def listed(start: str, end: str) -> Raw:
    return {"ts": [float(start), float(end)]}


def start_end(start: str, end: str) -> Raw:
    return {"start": float(start), "end": float(end)}


def start_end_text(start: str, end: str) -> Raw:
    return {"start": start, "end": end}


def options(*texts: str) -> Raw:
    return {f"a{index}": text for index, text in enumerate(texts)}


NEXTQA = Layout(
    adapter=nextqa,
    split="val",
    file_name="val.csv",
    kind="csv",
    # The first rows of the published file, without frame_count, width and height.
    rows=[
        {"video": "4010069381", "question": "how do the two man play the instrument", "answer": "0", "qid": "6"}
        | {"type": "CH"}
        | options("roll the handle", "tap their feet", "strum the string", "hit with sticks", "pat with hand"),
        {"video": "4882821564", "question": "why did the boy pick up one present", "answer": "2", "qid": "1"}
        | {"type": "CW"}
        | options("share", "approach lady sitting there", "unwrap it", "playing with toy train", "gesture something"),
    ],
    video_key="video",
    question_key="question",
    option_keys=nextqa.OPTIONS,
    answer_key="answer",
    id_keys=("video", "qid", "type"),
    beside={"map_vid_vidorID.json": "{}"},
    required="type",
)


def choices(*texts: str) -> Raw:
    return {"choices": [{"choice_id": index, "choice": text, "choice_program": []} for index, text in enumerate(texts)]}


STAR = Layout(
    adapter=star,
    split="val",
    file_name="STAR_val.json",
    kind="json",
    rows=[
        {
            "question_id": "Interaction_T1_13",
            "question": "Which object was tidied up by the person?",
            "video_id": "6H78U",
        }
        | {"start": 11.1, "end": 19.6, "answer": "The closet/cabinet.", "question_program": [], "situations": {}}
        | choices("The closet/cabinet.", "The blanket.", "The table.", "The clothes."),
        {"question_id": "Feasibility_T6_9", "question": "What is the person able to do?", "video_id": "6H78V"}
        | {"start": 0.0, "end": 7.0, "answer": "Wash the table.", "question_program": [], "situations": {}}
        | choices("Sit at the table.", "Wash the table.", "Take the book.", "Open the door."),
    ],
    video_key="video_id",
    question_key="question",
    answer_key="answer",
    id_keys=("question_id",),
    clip=start_end,
    required="choices",
)

HOW2QA_CSV = Layout(
    adapter=how2qa,
    split="val",
    file_name="how2QA_val_release.csv",
    kind="bare_csv",
    # The first rows of the published file.
    rows=[
        {"vid_name": "NOuQuofjk44", "ts": "[7.2:18.0]", "wrong1": "10", "wrong2": "12", "wrong3": "16"}
        | {"q": "how many knife is there?", "right": "1"},
        {"vid_name": "DQ6wpOD-h7g", "ts": "[43.5:60.0]", "wrong1": "Powerpoint", "wrong2": "Word", "wrong3": "Access"}
        | {"q": "What program is used in this clip?", "right": "Excel"},
    ],
    video_key="vid_name",
    question_key="q",
    option_keys=("wrong1", "wrong2", "wrong3", "right"),
    clip=bracketed,
    required="right",
)

HOW2QA_JSONL = Layout(
    adapter=how2qa,
    split="val",
    file_name="how2qa_val_release.jsonl",
    kind="jsonl",
    rows=[
        {"vid_name": "e_1341c", "ts": "7.20-27.90", "qid": "6821", "q": "What she is gonna use?", "answer_idx": 1}
        | options("Juice.", "Pearl ex pigment.", "Water.", "Paint."),
        {"vid_name": "29752", "ts": "0.0-3.5", "qid": "6822", "q": "What does she hold?", "answer_idx": 3}
        | options("A cup.", "A spoon.", "A pan.", "A knife."),
    ],
    video_key="vid_name",
    question_key="q",
    option_keys=how2qa.OPTIONS,
    answer_key="answer_idx",
    id_keys=("qid",),
    clip=dashed,
    required="a3",
)

TVQA = Layout(
    adapter=tvqa,
    split="val",
    file_name="tvqa_val.jsonl",
    kind="jsonl",
    rows=[
        {"vid_name": "met_s06e22_seg01_clip_02", "ts": "1.21-8.49", "qid": 7, "answer_idx": 4}
        | {"q": "What is Robin holding in her hand when she is talking to Ted about Zoey?"}
        | options("A martini glass", "Nachos", "Her purse", "Marshall's book", "A beer bottle"),
        {"vid_name": "s03e02_seg02_clip_10", "ts": "20.16-25.12", "qid": 122039, "answer_idx": 2}
        | {"q": "Why is Howard frustrated?", "show_name": "The Big Bang Theory"}
        | options("Sheldon is rude.", "He is tired.", "They argue.", "He wants to be alone.", "He has no money."),
    ],
    video_key="vid_name",
    question_key="q",
    option_keys=tvqa.OPTIONS,
    answer_key="answer_idx",
    id_keys=("qid",),
    clip=dashed,
    required="q",
)

VLEP = Layout(
    adapter=vlep,
    split="dev",
    file_name="vlep_dev_release.jsonl",
    kind="jsonl",
    rows=[
        {"example_id": 20142, "vid_name": "friends_s03e09_seg02_clip_07_ep", "ts": [38.81, 40.37], "answer": 0}
        | {"events": ["Ross will stop, turn and point.", "Ross will stop and ask Monica why."], "split": "dev"},
        {
            "example_id": 21411,
            "vid_name": "OO9kSxcT9Rg_subs_012_00:13:00_00:14:00_ep",
            "ts": [10.54, 13.55],
            "answer": 1,
        }
        | {"events": ["The customer eats the food.", "The customer takes the tray of food."], "split": "dev"},
    ],
    video_key="vid_name",
    question_key=None,
    answer_key="answer",
    id_keys=("example_id",),
    clip=listed,
    required="events",
)

QVHIGHLIGHTS = Layout(
    adapter=qvhighlights,
    split="val",
    file_name="highlight_val_release.jsonl",
    kind="jsonl",
    rows=[
        {"qid": 8737, "query": "A family is playing basketball together on a green court outside.", "duration": 126}
        | {"vid": "bP5KfdFJzC4_660.0_810.0", "relevant_windows": [[0, 16]], "relevant_clip_ids": [0, 1, 2]},
        {"qid": 2579, "query": "A girl and her mother cooked", "duration": 150}
        | {"vid": "NUsG9BgSes0_210.0_360.0", "relevant_windows": [[82, 150], [10, 12.5]], "relevant_clip_ids": [41]},
    ],
    video_key="vid",
    question_key="query",
    id_keys=("qid",),
    required="query",
)

SEVILA_NEXTQA = Layout(
    adapter=sevila_json,
    split="val",
    file_name="val.json",
    kind="json",
    rows=[
        {"video": "1164/4010069381", "num_option": 3, "qid": "CH_4010069381_6", "question": "how?", "answer": "0"}
        | options("roll the handle.", "tap their feet.", "strum the string."),
        {"video": "1164/4010069382", "num_option": 3, "qid": "TN_4010069382_1", "question": "what then?", "answer": 2}
        | options("run.", "sleep.", "eat."),
    ],
    video_key="video",
    question_key="question",
    option_keys=("a0", "a1", "a2"),
    answer_key="answer",
    id_keys=("qid",),
    required="qid",
)

SEVILA_TVQA = Layout(
    adapter=sevila_json,
    split="val",
    file_name="val.json",
    kind="json",
    rows=[
        {"video": "grey_s01e02_seg02_clip_10", "num_option": 2, "qid": "TVQA_0", "question": "Why?", "answer": 1}
        | {"start": "7.2", "end": "18.0"}
        | options("So.", "Thus."),
        {"video": "s03e02_seg02_clip_11", "num_option": 2, "qid": "TVQA_1", "question": "How?", "answer": 0}
        | {"start": "0", "end": "3"}
        | options("Fast.", "Slow."),
    ],
    video_key="video",
    question_key="question",
    option_keys=("a0", "a1"),
    answer_key="answer",
    id_keys=("qid",),
    clip=start_end_text,
    required="video",
)

SEVILA_VLEP = Layout(
    adapter=sevila_json,
    split="val",
    file_name="val.json",
    kind="json",
    rows=[
        {"video": "friends_s03e09_seg02_clip_07_ep", "qid": "VLEP_1", "a0": "He runs.", "a1": "He falls.", "answer": 0}
        | {"start": 1.5, "end": 7.25},
        {"video": "abc_00:01:00_ep", "qid": "VLEP_2", "a0": "She sings.", "a1": "She stops.", "answer": 1}
        | {"start": 1.5, "end": 7.25},
    ],
    video_key="video",
    question_key=None,
    option_keys=("a0", "a1"),
    answer_key="answer",
    id_keys=("qid",),
    clip=start_end,
    required="video",
)

LAYOUTS = [NEXTQA, STAR, HOW2QA_CSV, HOW2QA_JSONL, TVQA, VLEP, QVHIGHLIGHTS, SEVILA_NEXTQA, SEVILA_TVQA, SEVILA_VLEP]
