from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.coverage import MissingVideo, coverage, format_coverage

READABLE = [("a", ""), ("a", ""), ("b", "")]
MISSING = [
    ("c", "missing: no file 'c.mp4'"),
    ("c", "missing: no file 'c.mp4'"),
    ("d", "missing: gone"),
    ("e", "empty: 0 B"),
]


def test_questions_and_videos_are_counted_by_reason() -> None:
    rows, _ = coverage(READABLE + MISSING)
    assert [(row.reason, row.n_questions, row.n_videos) for row in rows] == [
        ("", 3, 2),
        ("missing", 3, 2),
        ("empty", 1, 1),
    ]
    assert rows[0].questions_percent == 100 * 3 / 7


def test_a_video_with_several_reasons_is_counted_once() -> None:
    first_video = [("a", ""), ("a", "empty: no options"), ("a", "not_finite: frame 3")]
    second_video = [("b", "empty: no options"), ("b", "missing: here"), ("b", "missing: there")]
    rows, _ = coverage(first_video + second_video)
    assert {row.reason: row.n_videos for row in rows} == {"": 1, "missing": 1, "empty": 0, "not_finite": 0}
    assert format_coverage(rows).startswith("coverage: 1 of 6 questions (16.7 %), 1 of 2 videos;")


def test_every_missing_video_is_listed_with_its_reason_and_its_questions() -> None:
    _, missing = coverage(READABLE + MISSING)
    assert missing == [
        MissingVideo("c", "missing: no file 'c.mp4'", 2),
        MissingVideo("d", "missing: gone", 1),
        MissingVideo("e", "empty: 0 B", 1),
    ]


def test_the_summary_line_states_what_is_missing() -> None:
    assert format_coverage(coverage(READABLE + MISSING)[0]) == (
        "coverage: 3 of 7 questions (42.9 %), 2 of 5 videos; questions not asked: 3 missing (42.9 %), 1 empty (14.3 %)"
    )
    assert format_coverage(coverage(READABLE)[0]) == "coverage: 3 of 3 questions (100.0 %), 2 of 2 videos"


def test_no_readable_video_is_a_coverage_of_zero() -> None:
    rows, _ = coverage(MISSING)
    assert (rows[0].reason, rows[0].n_questions, rows[0].questions_percent) == ("", 0, 0.0)
    assert coverage([])[0][0].questions_percent == 0.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "missing: x", "missing: y", "empty: z"]))))
def test_counts_add_up(questions: list[tuple[str, str]]) -> None:
    rows, missing = coverage(questions)
    assert sum(row.n_questions for row in rows) == len(questions)
    assert sum(row.n_videos for row in rows) == len({video for video, _ in questions})
    assert sum(video.n_questions for video in missing) == sum(row.n_questions for row in rows[1:])
