import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import nextqa
from pipeline.metrics import accuracy_table, format_accuracy_table

outcome = st.tuples(
    st.none() | st.integers(0, 4), st.none() | st.integers(0, 4), st.sampled_from(["CW", "CH", "TN", "DC", "XX", ""])
)


def test_accuracy_is_reported_overall_by_group_and_by_type() -> None:
    outcomes = [(0, 0, "CW"), (1, 2, "CH"), (3, 3, "TN"), (4, 4, "CW")]
    rows = {(row.scope, row.name): row for row in accuracy_table(outcomes, nextqa.group)}
    assert list(rows) == [
        ("overall", "overall"),
        ("group", "Causal"),
        ("group", "Temporal"),
        ("type", "CH"),
        ("type", "CW"),
        ("type", "TN"),
    ]
    assert rows["overall", "overall"].accuracy_percent == 75.0
    assert rows["group", "Causal"].accuracy_percent == pytest.approx(200 / 3)
    assert rows["type", "CH"].n_correct == 0


def test_the_interval_is_wilsons() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, table I): 81 of 263, score method: 0.2553 to 0.3662.
    (row, *_) = accuracy_table([(0, 0, "")] * 81 + [(0, 1, "")] * 182, str)
    assert row.low_percent == pytest.approx(25.53, abs=0.005)
    assert row.high_percent == pytest.approx(36.62, abs=0.005)


def test_an_unanswered_question_counts_as_wrong() -> None:
    (row,) = accuracy_table([(0, 0, ""), (0, None, "")], str)
    assert (row.n_questions, row.n_correct, row.n_unanswered) == (2, 1, 1)
    assert row.accuracy_percent == row.unanswered_percent == 50.0


def test_a_question_without_a_known_answer_is_counted_apart() -> None:
    (row,) = accuracy_table([(0, 0, ""), (None, 3, ""), (None, None, "")], str)
    assert (row.n_questions, row.n_unlabelled, row.n_unanswered) == (1, 2, 0)
    assert row.accuracy_percent == 100.0


def test_a_test_split_without_answers_has_no_accuracy() -> None:
    rows = accuracy_table([(None, 1, "CW")], nextqa.group)
    assert [row.accuracy_percent for row in rows] == [None, None, None]
    assert all(row.n_unlabelled == 1 for row in rows)
    assert format_accuracy_table(rows).splitlines()[1].split() == ["overall", "0", "0", "-", "-", "-", "1"]


def test_no_questions_give_one_empty_row() -> None:
    (row,) = accuracy_table([], str)
    assert (row.n_questions, row.accuracy_percent, row.unanswered_percent) == (0, None, None)


def test_the_printed_table_is_aligned() -> None:
    outcomes = [(0, 0, "CW")] * 8 + [(0, 1, "TN")] + [(0, None, "TN")] + [(None, 1, "DC")]
    assert format_accuracy_table(accuracy_table(outcomes, nextqa.group)).splitlines() == [
        "               questions  correct  accuracy  95 % interval  unanswered  no known answer",
        "overall               10        8    80.0 %    49.0 - 94.3      10.0 %                1",
        "  Causal               8        8   100.0 %   67.6 - 100.0       0.0 %                0",
        "  Descriptive          0        0         -              -           -                1",
        "  Temporal             2        0     0.0 %     0.0 - 65.8      50.0 %                0",
        "    CW                 8        8   100.0 %   67.6 - 100.0       0.0 %                0",
        "    DC                 0        0         -              -           -                1",
        "    TN                 2        0     0.0 %     0.0 - 65.8      50.0 %                0",
    ]


@settings(deadline=None)  # scipy's first interval loads what it needs
@given(st.lists(outcome, max_size=60))
def test_counts_add_up_and_percentages_are_never_nan(outcomes: list) -> None:
    overall, *parts = accuracy_table(outcomes, nextqa.group)
    assert overall.n_questions + overall.n_unlabelled == len(outcomes)
    of_type = [row for row in parts if row.scope == "type"]
    untyped = sum(answer is not None for answer, _, question_type in outcomes if not question_type)
    assert sum(row.n_questions for row in of_type) + untyped == overall.n_questions
    for row in [overall, *parts]:
        assert row.n_correct + row.n_unanswered <= row.n_questions
        percentages = [row.low_percent, row.accuracy_percent, row.high_percent, row.unanswered_percent]
        if row.n_questions == 0:
            assert percentages == [None] * 4
        else:
            assert all(value is not None and not math.isnan(value) for value in percentages)
            assert -1e-9 <= row.low_percent <= row.accuracy_percent + 1e-9
            assert row.accuracy_percent <= row.high_percent + 1e-9 <= 100 + 2e-9
    assert len(format_accuracy_table([overall, *parts]).splitlines()) == 2 + len(parts)
