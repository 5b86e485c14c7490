"""Layouts of the long-video data sets; their rows are invented in the form of the published ones."""

from dataclasses import replace

from pipeline.datasets import egoschema, longvideobench, mlvu, videomme
from tests.pipeline.datasets.layouts import Layout

LONGVIDEOBENCH_JSON = Layout(
    adapter=longvideobench,
    split="val",
    file_name="lvb_val.json",
    kind="json",
    rows=[
        {"video_id": "86CxyhFV9MI", "id": "86CxyhFV9MI_0", "video_path": "86CxyhFV9MI.mp4", "duration": 190.16}
        | {"question": "Which subtitles appear?", "candidates": ["in and run", "and front", "in and front", "i still"]}
        | {"correct_choice": 1, "position": [854, 948, 1373], "question_category": "TOS", "level": "L2-Relation"}
        | {"duration_group": 600},
        {"video_id": "@jess-7203", "id": "@jess-7203_0", "video_path": "7203.mp4", "duration": 10.0}
        | {"question": "What is red?", "candidates": ["a", "car", "door"], "correct_choice": 2, "position": [27]}
        | {"question_category": "S2E", "level": "L1-Perception", "duration_group": 15},
    ],
    video_key="video_id",
    question_key="question",
    answer_key="correct_choice",
    id_keys=("id",),
    required="candidates",
    options_key="candidates",
)

LONGVIDEOBENCH_PARQUET = Layout(
    adapter=longvideobench,
    split="val",
    file_name="validation-00000-of-00001.parquet",
    kind="parquet",
    rows=[
        {"video_id": "86CxyhFV9MI", "id": "86CxyhFV9MI_0", "video_path": "86CxyhFV9MI.mp4", "duration": 190.16}
        | {
            "question": "Which subtitles appear?",
            "correct_choice": 1,
            "question_category": "TOS",
            "duration_group": 600,
        }
        | {"option0": "in and run", "option1": "and front", "option2": "in and front", "option3": "i still"}
        | {"option4": "N/A"},
        {"video_id": "@jess-7203", "id": "@jess-7203_0", "video_path": "7203.mp4", "duration": 10.0}
        | {"question": "What is red?", "correct_choice": 2, "question_category": "S2E", "duration_group": 15}
        | {"option0": "a", "option1": "car", "option2": "door", "option3": "N/A", "option4": "N/A"},
    ],
    video_key="video_id",
    question_key="question",
    option_keys=longvideobench.OPTIONS[:4],
    answer_key="correct_choice",
    id_keys=("id",),
    required="option0",
)

VIDEOMME_JSON = Layout(
    adapter=videomme,
    split="test",
    file_name="videomme.json",
    kind="json",
    rows=[
        {
            "video_id": "001",
            "duration": "short",
            "domain": "Knowledge",
            "videoID": "fFjv93ACGo8",
            "question_id": "001-1",
        }
        | {"question": "Which has the largest number?", "task_type": "Counting Problem", "answer": "C"}
        | {"options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. All the same."]},
        {
            "video_id": "886",
            "duration": "long",
            "domain": "Life Record",
            "videoID": "elprD1hnDyU",
            "question_id": "886-3",
        }
        | {"question": "How many socks?", "task_type": "Counting Problem", "answer": "D"}
        | {"options": ["A. 1.", "B. 4.", "C. 2.", "D. 3."]},
    ],
    video_key="videoID",
    question_key="question",
    answer_key="answer",
    id_keys=("question_id",),
    required="options",
    options_key="options",
)

MLVU_PARQUET = Layout(
    adapter=mlvu,
    split="dev",
    file_name="test-00000-of-00001.parquet",
    kind="parquet",
    rows=[
        {"video_name": "needle_32.mp4", "duration": 467.98, "task_type": "needle", "question_id": "Q0", "answer": "A"}
        | {"question": "What does the hand do?\n(A) Delivers it\n(B) Shakes\n(C) Points\n"}
        | {"candidates": ["Delivers it", "Shakes", "Points"]},
        {"video_name": "order_25.mp4", "duration": 718.0, "task_type": "order", "question_id": "Q9", "answer": "B"}
        | {"question": "Arrange: (1) They paddle; (2) They stop.\n(A) 2->1\n(B) 1->2\n"}
        | {"candidates": ["2->1", "1->2"]},
    ],
    video_key="video_name",
    question_key="question",
    answer_key="answer",
    id_keys=("question_id",),
    required="candidates",
    options_key="candidates",
)

MLVU_JSON = Layout(
    adapter=mlvu,
    split="count",
    file_name="4_count.json",
    kind="json",
    rows=[
        {"video": "count_122.mp4", "duration": 476.95, "question": "How many instances are there?", "answer": "3"}
        | {"candidates": ["4", "3", "6", "7"], "question_type": "count"},
        {"video": "count_7.mp4", "duration": 400, "question": "How often does he sing?", "answer": "twice"}
        | {"candidates": ["once", "twice", "never"], "question_type": "count"},
    ],
    video_key="video",
    question_key="question",
    answer_key="answer",
    required="candidates",
    options_key="candidates",
)

EGOSCHEMA_PARQUET = Layout(
    adapter=egoschema,
    split="test",
    file_name="test-00000-of-00001.parquet",
    kind="parquet",
    rows=[
        {"question_idx": "00000", "question": "Describe the interruption.", "video_idx": "001934bb-81bd", "answer": "1"}
        | {"option": ["A. C stops", "B. C types", "C. C drinks", "D. C talks", "E. C sleeps."]},
        {"question_idx": "00083", "question": "What is the objective?", "video_idx": "04c06e07-3e45", "answer": "4"}
        | {"option": ["A. Painting", "B. Walking", "C. A drawer", "D. Drying", "E. Dipping"]},
    ],
    video_key="video_idx",
    question_key="question",
    answer_key="answer",
    id_keys=("video_idx",),
    required="option",
    options_key="option",
)

EGOSCHEMA_JSON = Layout(
    adapter=egoschema,
    split="test",
    file_name="questions.json",
    kind="json",
    rows=[
        {"q_uid": "001934bb-81bd", "google_drive_id": "1Nu", "question": "Describe the interruption.", "answer": None}
        | dict(zip(egoschema.OPTIONS, ["C stops", "C types", "C drinks", "C talks", "C sleeps"], strict=True)),
        {"q_uid": "04c06e07-3e45", "google_drive_id": "1Nv", "question": "What is the objective?", "answer": None}
        | dict(zip(egoschema.OPTIONS, ["Painting", "Walking", "A drawer", "Drying", "Dipping"], strict=True)),
    ],
    video_key="q_uid",
    question_key="question",
    option_keys=egoschema.OPTIONS,
    id_keys=("q_uid",),
    required="option 4",
)

VIDEOMME_PARQUET = replace(VIDEOMME_JSON, kind="parquet", file_name="test-00000-of-00001.parquet")

LONG_VIDEOS = [
    *(LONGVIDEOBENCH_JSON, LONGVIDEOBENCH_PARQUET, VIDEOMME_JSON, VIDEOMME_PARQUET),
    *(MLVU_PARQUET, MLVU_JSON, EGOSCHEMA_PARQUET, EGOSCHEMA_JSON),
]
