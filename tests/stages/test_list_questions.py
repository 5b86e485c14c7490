import json
from pathlib import Path
from typing import Any

import pytest

from cache.digests import DigestCache
from cache.errors import SevilaError
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from stages.list_questions import ListQuestions, Questions, list_questions

QUERIES = [
    {"qid": 1, "query": "A dog runs", "vid": "a_0.0_10.0", "duration": 10, "relevant_windows": [[0, 4], [8, 6.5]]},
    {"qid": 2, "query": "A dog sleeps", "vid": "b_0.0_10.0", "duration": 10, "relevant_windows": [[2, 4]]},
    {"qid": 3, "query": "", "vid": "b_0.0_10.0", "duration": 10, "relevant_windows": [[2, 4]]},
]


def build_questions(folder: Path, rows: list[dict[str, Any]], **config: Any) -> Questions:
    (folder / "highlight_val_release.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = Sources(DigestCache(folder / "digests.json"), {"annotations": [str(folder)]}, download=False)
    cfg = ListQuestions(dataset="qvhighlights", split="val", **config)
    run = RunContext(Store(folder / "store"))
    questions = build(list_questions, cfg, run, [sources.annotations("qvhighlights", "val")])
    assert isinstance(questions, Questions)
    return questions


def test_moments_are_stored_in_a_separate_table(tmp_path: Path) -> None:
    questions = build_questions(tmp_path, QUERIES)
    assert [tuple(row.values()) for row in questions.rows("moments")] == [
        ("1", 0.0, 4.0),
        ("1", 6.5, 8.0),
        ("2", 2.0, 4.0),
    ]
    assert [row["options"] for row in questions.rows("questions")] == [[], []]
    assert [row["note"] for row in questions.rows("questions")] == ["start 8 s lies after end 6.5 s: swapped", ""]
    assert [tuple(row.values()) for row in questions.rows("rejected")] == [
        ("highlight_val_release.jsonl", 3, "query is missing or empty")
    ]


def test_a_limit_also_drops_moments_and_videos_of_dropped_questions(tmp_path: Path) -> None:
    questions = build_questions(tmp_path, QUERIES, limit=1)
    assert {row["question_id"] for row in questions.rows("moments")} == {"1"}
    assert [row["video_id"] for row in questions.rows("videos")] == ["a_0.0_10.0"]


def test_a_file_without_usable_rows_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(
        SevilaError, match=r"no usable question .* highlight_val_release\.jsonl line 1: query is missing"
    ):
        build_questions(tmp_path, QUERIES[2:])
