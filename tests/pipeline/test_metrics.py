import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import nextqa
from pipeline.metrics.accuracy import Outcome, Reporting, accuracy_table, format_accuracy_table
from pipeline.metrics.resampling import Resampling

FEW = Resampling(resamples=200)
NEXTQA = Reporting("overall", nextqa.pooled_types)
MEAN = Reporting("mean_of_groups")

outcome = st.builds(
    lambda answer, prediction, video, kind: Outcome(answer, prediction, video, kind, nextqa.group(kind)),
    st.none() | st.integers(0, 4),
    st.none() | st.integers(0, 4),
    st.sampled_from("uvwx"),
    st.sampled_from(["CW", "CH", "TN", "TP", "DC", "XX", ""]),
)


def outcomes_of(*questions: tuple[int | None, int | None, str]) -> list[Outcome]:
    """Outcomes of (correct option, prediction, NExT-QA type), each about its own video."""
    return [
        Outcome(answer, prediction, f"v{number}", kind, nextqa.group(kind))
        for number, (answer, prediction, kind) in enumerate(questions)
    ]


def test_accuracy_is_reported_overall_by_group_and_by_type() -> None:
    outcomes = outcomes_of((0, 0, "CW"), (1, 2, "CH"), (3, 3, "TN"), (4, 4, "CW"))
    rows = {(row.scope, row.name): row for row in accuracy_table(outcomes)}
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
    assert [row.is_headline for row in rows.values()] == [True] + [False] * 5


def test_pooled_rows_of_a_dataset_combine_its_types() -> None:
    outcomes = outcomes_of((0, 0, "TN"), (0, 1, "TP"), (0, 0, "TC"), (0, 0, "TC"), (0, 0, "CW"))
    rows = {row.name: row for row in accuracy_table(outcomes, NEXTQA) if row.scope == "pooled"}
    assert {name: (row.n_correct, row.n_questions) for name, row in rows.items()} == {
        "Acc_C": (1, 1),
        "Acc_T": (3, 4),
        "TN+TP": (1, 2),
    }


def test_the_mean_of_groups_weighs_groups_equally() -> None:
    outcomes = outcomes_of(*[(0, 0, "CW")] * 8, (0, 1, "TN"), (0, 0, "TN"), (None, 0, "DC"), (0, 0, ""))
    head, overall, *_ = accuracy_table(outcomes, MEAN)
    assert (head.name, head.is_headline, head.accuracy_percent) == ("mean of 2 groups", True, 75.0)
    assert (head.n_questions, head.n_correct, head.n_unlabelled) == (10, 9, 1)
    assert (overall.is_headline, overall.accuracy_percent) == (False, pytest.approx(1000 / 11))
    # Temporal is right in 0, 1/2 or all of its draws and Causal always: the mean is 50, 75 or 100 %, or between.
    assert (head.bootstrap_low_percent, head.bootstrap_high_percent) == (50.0, 100.0)
    assert head.wilson_low_percent is None


def test_the_mean_of_one_group_has_the_interval_of_that_group() -> None:
    outcomes = outcomes_of(*[(0, number % 3, "CW") for number in range(30)])
    head, overall, *_ = accuracy_table(outcomes, MEAN)
    names = ("accuracy_percent", "bootstrap_low_percent", "bootstrap_high_percent")
    assert [getattr(head, name) for name in names] == [getattr(overall, name) for name in names]


def test_the_mean_of_groups_is_unknown_without_groups() -> None:
    head, overall = accuracy_table([Outcome(0, 0, "v"), Outcome(0, 0, "w")], MEAN)
    assert (head.n_questions, head.accuracy_percent, head.bootstrap_low_percent) == (0, None, None)
    assert overall.accuracy_percent == 100.0


def test_the_wilson_interval_matches_a_published_example() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, table I): 81 of 263, score method: 0.2553 to 0.3662.
    (row,) = accuracy_table(outcomes_of(*[(0, 0, "")] * 81, *[(0, 1, "")] * 182))
    assert row.wilson_low_percent == pytest.approx(25.53, abs=0.005)
    assert row.wilson_high_percent == pytest.approx(36.62, abs=0.005)


def test_the_interval_resamples_videos_by_default() -> None:
    outcomes = [Outcome(0, number % 2, f"v{number % 2}") for number in range(100)]
    (by_video,) = accuracy_table(outcomes)
    (by_question,) = accuracy_table(outcomes, resampling=Resampling("question"))
    assert (by_video.bootstrap_low_percent, by_video.bootstrap_high_percent) == (0.0, 100.0)
    assert 35 < by_question.bootstrap_low_percent < by_question.bootstrap_high_percent < 65


def test_equal_seeds_give_equal_intervals_and_other_seeds_similar_ones() -> None:
    outcomes = outcomes_of(*[(0, number % 3, "") for number in range(200)])
    (first,), (again,), (other,) = (accuracy_table(outcomes, resampling=Resampling(seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first.bootstrap_low_percent == pytest.approx(other.bootstrap_low_percent, abs=0.6)


def test_an_unanswered_question_counts_as_wrong() -> None:
    (row,) = accuracy_table(outcomes_of((0, 0, ""), (0, None, "")))
    assert (row.n_questions, row.n_correct, row.n_unanswered) == (2, 1, 1)
    assert row.accuracy_percent == row.unanswered_percent == 50.0


def test_a_question_without_a_known_answer_is_counted_separately() -> None:
    (row,) = accuracy_table(outcomes_of((0, 0, ""), (None, 3, ""), (None, None, "")))
    assert (row.n_questions, row.n_unlabelled, row.n_unanswered) == (1, 2, 0)
    assert row.accuracy_percent == 100.0
    assert row.bootstrap_low_percent is None  # the other questions are not counted


def test_a_test_split_without_answers_has_no_accuracy() -> None:
    rows = accuracy_table(outcomes_of((None, 1, "CW")), NEXTQA)
    assert [row.accuracy_percent for row in rows] == [None] * 4
    assert all(row.n_unlabelled == 1 for row in rows)
    line = format_accuracy_table(rows, "video").splitlines()[1]
    assert line.split() == ["overall", "0", "0", "-", "-", "-", "-", "1"]


def test_no_questions_give_one_empty_row() -> None:
    (row,) = accuracy_table([])
    assert (row.n_questions, row.accuracy_percent, row.unanswered_percent) == (0, None, None)


def test_the_printed_table_is_aligned() -> None:
    outcomes = outcomes_of(*[(0, 0, "CW")] * 8, (0, 1, "TN"), (0, None, "TN"), (None, 1, "DC"))
    assert format_accuracy_table(accuracy_table(outcomes), "video").splitlines() == [
        "               questions  correct  accuracy  95 % by video   95 % Wilson  unanswered  no known answer",
        "overall               10        8    80.0 %   50.0 - 100.0   49.0 - 94.3      10.0 %                1",
        "  Causal               8        8   100.0 %  100.0 - 100.0  67.6 - 100.0       0.0 %                0",
        "  Descriptive          0        0         -              -             -           -                1",
        "  Temporal             2        0     0.0 %      0.0 - 0.0    0.0 - 65.8      50.0 %                0",
        "    CW                 8        8   100.0 %  100.0 - 100.0  67.6 - 100.0       0.0 %                0",
        "    DC                 0        0         -              -             -           -                1",
        "    TN                 2        0     0.0 %      0.0 - 0.0    0.0 - 65.8      50.0 %                0",
    ]


@settings(deadline=None)  # scipy imports modules on the first interval
@given(st.lists(outcome, max_size=60), st.sampled_from([Reporting(), NEXTQA, MEAN]))
def test_counts_add_up_and_percentages_are_never_nan(outcomes: list[Outcome], reporting: Reporting) -> None:
    rows = accuracy_table(outcomes, reporting, FEW)
    (overall,) = (row for row in rows if row.scope == "overall")
    assert overall.n_questions + overall.n_unlabelled == len(outcomes)
    assert [row.is_headline for row in rows] == [True] + [False] * (len(rows) - 1)
    of_type = [row for row in rows if row.scope == "type"]
    untyped = sum(outcome.answer_index is not None for outcome in outcomes if not outcome.question_type)
    assert sum(row.n_questions for row in of_type) + untyped == overall.n_questions
    for row in rows:
        assert row.n_correct + row.n_unanswered <= row.n_questions
        accuracy = row.accuracy_percent
        assert (accuracy is None) == (row.unanswered_percent is None) == (row.n_questions == 0)
        bounds = [(row.wilson_low_percent, row.wilson_high_percent)]
        bounds.append((row.bootstrap_low_percent, row.bootstrap_high_percent))
        for low, high in bounds:
            assert (low is None) == (high is None)
            if low is not None and high is not None:
                assert not math.isnan(low) and -1e-9 <= low <= high + 1e-9 <= 100 + 2e-9
    assert len(format_accuracy_table(rows, "video").splitlines()) == 1 + len(rows)
