"""The SQL queries of docs/queries.md, on a store with two runs."""

import re
import shutil
from pathlib import Path

import pytest

from tests.stages.runs import artifact

duckdb = pytest.importorskip("duckdb")
PAGE = Path(__file__).parents[2] / "docs" / "queries.md"


@pytest.fixture
def queries(named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shutil.copytree(named, tmp_path / ".sevila")
    monkeypatch.chdir(tmp_path)
    return re.findall("```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_accuracy_by_type_query_equals_the_metrics(queries: list[str], named: Path) -> None:
    answers = artifact(named, "answers").record.id
    rows = duckdb.sql(queries[0].replace("answer_questions-*", answers)).fetchall()
    expected = {row["name"]: row for row in artifact(named, "metrics").rows("metrics") if row["scope"] == "type"}
    assert {kind for kind, *_ in rows} == {"colour", "shape", "motion"} and sum(row[1] for row in rows) == 30
    for kind, _, right_percent, best in rows:
        assert right_percent == pytest.approx(expected[kind]["accuracy_percent"], abs=0.06) and 0 < best < 1


def test_the_keyframe_spread_query_has_a_row_per_selection(queries: list[str], named: Path) -> None:
    localizer, uniform = duckdb.sql(queries[1]).fetchall()
    assert (localizer[1], uniform[1], *localizer[2:4]) == ("localizer", "uniform", "top_k", 4)
    rows = [row["seconds"] for row in artifact(named, "keyframes").rows("keyframes") if row["status"] == "ok"]
    assert uniform[0] == artifact(named, "keyframes").record.id and uniform[6] == len(rows) == 24
    assert uniform[4] == pytest.approx(sum(row[-1] - row[0] for row in rows) / 24, abs=0.01)


def test_the_stage_cost_query_reads_the_records(queries: list[str], named: Path) -> None:
    rows = duckdb.sql(queries[2]).fetchall()
    assert {"sample_frames": 1, "answer_questions": 2}.items() <= {row[0]: row[1] for row in rows}.items()
    assert all(seconds >= 0 and megabytes > 0 for _, _, seconds, megabytes, _ in rows)
