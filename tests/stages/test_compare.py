"""`sevila compare` on two runs of the demo: the same questions, keyframes of the Localizer against uniform ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store
from cli import main
from pipeline.metrics.comparison import mcnemar_p_value
from stages.answer_questions import Answers
from tests.stages.runs import UNIFORM, artifact, edited, sevila


def newest(store: Path, kind: str) -> str:
    return artifact(store, kind).record.id


@pytest.fixture(scope="module")
def two_runs(finished: Path, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A store with two runs and the ids of their answers; tests must not change it."""
    store = Path(shutil.copytree(finished, tmp_path_factory.mktemp("two-runs") / "store"))
    a = newest(store, "answers")
    assert sevila("run", demo, store, *UNIFORM) == 0
    return store, a, newest(store, "answers")


@pytest.fixture
def runs(two_runs: tuple[Path, str, str], tmp_path: Path) -> tuple[Path, str, str]:
    """A copy of that store, which a test may change."""
    store, a, b = two_runs
    return Path(shutil.copytree(store, tmp_path / "store")), a, b


def compare(store: Path, *arguments: str) -> int:
    return main(["compare", *arguments, "--store", str(store)])


def compared(store: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert compare(store, *arguments, "--json") == 0
    comparison: dict[str, Any] = json.loads(capsys.readouterr().out)
    return comparison


def rows_of(store: Path, id: str) -> dict[str, dict[str, Any]]:
    return {row["question_id"]: row for row in Answers(Store(store), id).rows("answers")}


def test_changed_questions_and_counts_match_the_answers(
    two_runs: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, a, b = two_runs
    comparison = compared(store, capsys, a, b)
    of_a, of_b = rows_of(store, a), rows_of(store, b)
    questions = {row["question_id"]: row for row in artifact(store, "questions").rows("questions")}
    changed = [id for id in of_a if of_a[id]["prediction"] != of_b[id]["prediction"]]
    assert changed and [row["question_id"] for row in comparison["changed"]] == changed
    for row in comparison["changed"]:
        question = questions[row["question_id"]]
        options, right = question["options"], question["answer_index"]
        predictions = of_a[row["question_id"]]["prediction"], of_b[row["question_id"]]["prediction"]
        assert row["question"] == question["question"] and row["right"] == options[right]
        assert (row["a"], row["b"]) == (options[predictions[0]], options[predictions[1]])
        assert row["change"] == {(True, False): "lost", (False, True): "gained"}.get(
            (predictions[0] == right, predictions[1] == right), "wrong"
        )
    overall = comparison["rows"][0]
    n_gained, n_lost = (sum(row["change"] == change for row in comparison["changed"]) for change in ("gained", "lost"))
    assert (overall["n_only_b"], overall["n_only_a"], overall["n_questions"]) == (n_gained, n_lost, 30)
    assert overall["p_value"] == mcnemar_p_value(n_lost, n_gained)
    assert comparison["n_unanswered_a"] == comparison["n_unanswered_b"] == 6


def test_differences_in_config_are_listed(two_runs: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    store, a, b = two_runs
    lines = compared(store, capsys, a, b)["differences"]
    assert "select_keyframes.method: localizer -> uniform" in lines
    assert len(lines) == 2 and any(line.startswith("select_keyframes.scores: score_frames-") for line in lines)


def test_metrics_ids_name_the_run_of_their_answers(
    two_runs: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, a, b = two_runs
    metrics = newest(store, "metrics")
    assert compared(store, capsys, a, metrics.rsplit("-", 1)[-1][:8]) == compared(store, capsys, a, b)


def test_a_run_does_not_differ_from_itself(two_runs: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    store, a, _ = two_runs
    comparison = compared(store, capsys, a, a)
    assert comparison["changed"] == [] == comparison["differences"]
    assert all((row["difference_points"], row["p_value"]) == (0.0, 1.0) for row in comparison["rows"])


def test_the_table_and_the_first_changed_questions_are_printed(
    two_runs: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, a, b = two_runs
    comparison = compared(store, capsys, a, b)
    assert compare(store, a, b, "--changed", "1", "--bootstrap", "question") == 0
    printed = capsys.readouterr().out
    assert a in printed and b in printed and "30 questions compared\n" in printed
    assert "95 % by question" in printed and "p (McNemar)" in printed
    assert comparison["changed"][0]["question_id"] in printed
    assert f"... and {len(comparison['changed']) - 1} more" in printed
    assert len(compared(store, capsys, a, b, "--changed", "0")["changed"]) == 0


def test_only_shared_questions_are_compared_and_counted(
    runs: tuple[Path, str, str], demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, a, _ = runs
    assert sevila("run", demo, store, *UNIFORM, "--set", "list_questions.limit=12") == 0
    comparison = compared(store, capsys, a, newest(store, "answers"))
    assert (comparison["n_compared"], comparison["n_only_a"], comparison["n_only_b"]) == (12, 18, 0)
    assert compare(store, a, newest(store, "answers")) == 0
    assert "12 questions compared; left out: 18 only in A" in capsys.readouterr().out


def test_changed_options_make_another_question_and_changed_wording_does_not(
    runs: tuple[Path, str, str], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        reworded = [{**row, "question": row["question"].replace("What", "Which")} for row in rows]
        wrong = next(name for name in ("a0", "a1") if reworded[0][name] != reworded[0]["answer"])
        return [{**reworded[0], wrong: "a dog"}, *reworded[1:]]

    store, a, _ = runs
    assert sevila("run", edited(demo, tmp_path / "edited", edit), store) == 0
    comparison = compared(store, capsys, a, newest(store, "answers"))
    assert (comparison["n_compared"], comparison["n_differing"], comparison["n_only_a"]) == (29, 1, 0)


def test_questions_without_a_known_answer_are_left_out_and_counted(
    runs: tuple[Path, str, str], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "answer": ""} if number < 10 else row for number, row in enumerate(rows)]

    store, *_ = runs
    some = edited(demo, tmp_path / "some", edit)
    ids = []
    for more in ((), UNIFORM):
        assert sevila("run", some, store, *more) == 0
        ids.append(newest(store, "answers"))
    comparison = compared(store, capsys, *ids)
    assert (comparison["n_compared"], comparison["n_unlabelled"]) == (20, 10)


def test_runs_without_any_known_answer_cannot_be_compared(
    runs: tuple[Path, str, str], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, *_ = runs
    none = edited(demo, tmp_path / "none", lambda rows: [{**row, "answer": ""} for row in rows])
    assert sevila("run", none, store) == 0
    id = newest(store, "answers")
    assert compare(store, id, id) == 1
    message = capsys.readouterr().err
    assert "none of the 30 questions" in message and "known answer" in message


def test_runs_over_other_questions_cannot_be_compared(
    runs: tuple[Path, str, str], demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "question_id": f"other-{number}"} for number, row in enumerate(rows)]

    store, a, _ = runs
    assert sevila("run", edited(demo, tmp_path / "other", edit), store) == 0
    b = newest(store, "answers")
    assert compare(store, a, b) == 1
    message = capsys.readouterr().err
    assert a in message and b in message and "share no question" in message and "0 ids in common" in message


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("score_frames", "of kind frame_scores; expected the id of answers or metrics"),
        ("answer_questions", "several artifacts start with 'answer_questions'"),
        ("no-such-run", "no artifact starts with 'no-such-run'"),
    ],
)
def test_ids_that_name_no_run_are_refused(
    two_runs: tuple[Path, str, str], capsys: pytest.CaptureFixture[str], id: str, message: str
) -> None:
    store, a, _ = two_runs
    assert compare(store, a, id) == 1
    assert message in capsys.readouterr().err
