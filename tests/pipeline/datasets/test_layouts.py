"""Behaviour common to every layout of annotation files, tested with injected raw rows."""

import dataclasses
import logging
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets import how2qa, longvideobench, mlvu
from pipeline.datasets.adapter import files_of, group_of
from pipeline.datasets.registry import adapter_named, adapter_names
from tests.pipeline.datasets.layouts import LAYOUTS as SHORT_VIDEOS
from tests.pipeline.datasets.layouts import Layout
from tests.pipeline.datasets.long_layouts import LONG_VIDEOS

LAYOUTS = [*SHORT_VIDEOS, *LONG_VIDEOS]


def layouts_with(condition: Callable[[Layout], object]) -> pytest.MarkDecorator:
    layouts = [layout for layout in LAYOUTS if condition(layout)]
    return pytest.mark.parametrize("layout", layouts, ids=lambda layout: layout.name)


every_layout = layouts_with(lambda layout: True)
of_text = layouts_with(lambda layout: layout.kind != "parquet")
with_clips = layouts_with(lambda layout: layout.clip)
with_answers = layouts_with(lambda layout: layout.answer_key)


def changed(layout: Layout, **changes: Any) -> list[dict[str, Any]]:
    """Return the rows of the layout with some values of the first replaced."""
    return [layout.rows[0] | changes, *layout.rows[1:]]


def first_line(layout: Layout) -> int:
    return 2 if layout.kind == "csv" else 1


def only_rejection(layout: Layout, folder: Path, rows: Any) -> str:
    """Return the reason why only the first row is rejected."""
    annotations = layout.read(folder, rows)
    assert len(annotations.questions) == 1
    (rejected,) = annotations.rejected
    assert (rejected.file, rejected.line) == (layout.file_name, first_line(layout))
    return rejected.reason


def test_every_published_data_set_has_a_layout() -> None:
    assert {layout.adapter.name for layout in LAYOUTS} == set(adapter_names()) - {
        "plain",
        "open_questions",
        "timed_text",
        "shapes",
    }


@every_layout
def test_valid_rows_become_questions_in_file_order(layout: Layout, tmp_path: Path) -> None:
    annotations = layout.read(tmp_path, layout.rows)
    assert annotations.rejected == []
    folders = dict(mlvu.FOLDERS) if layout.adapter is mlvu else {}  # different folders have videos of the same names
    names = [row[layout.video_key] for row in layout.rows]
    for values in (annotations.questions, annotations.videos):
        ids = [value.video_id for value in values]
        assert [id.split("/")[-1] if folders else id for id in ids] == names
    for question in annotations.questions:
        assert question.note == ""
        assert question.answer_index is None or 0 <= question.answer_index < len(question.options)
        group = group_of(layout.adapter, question.question_type)
        assert group or layout.adapter.name in ("how2qa", "qvhighlights", "egoschema")


@of_text
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(layout: Layout, tmp_path: Path) -> None:
    content = layout.content(layout.rows)
    expected = layout.read(tmp_path, content)
    assert layout.read(tmp_path, "\ufeff" + content.replace("\n", "\r\n")) == expected


@every_layout
def test_text_in_any_script_is_kept(layout: Layout, tmp_path: Path) -> None:
    text = 'où, "là", 踢 🙂\u2028!'
    key = layout.question_key or ("a0" if "a0" in layout.rows[0] else "events")
    annotations = layout.read(tmp_path, changed(layout, **{key: [text, "b"] if key == "events" else text}))
    assert annotations.rejected == []
    question = annotations.questions[0]
    assert any(text in given for given in (question.question, *question.options))


@every_layout
def test_an_unknown_key_changes_nothing(layout: Layout, tmp_path: Path) -> None:
    if layout.kind == "bare_csv":
        reason = only_rejection(layout, tmp_path, changed(layout, extra="x"))
        assert reason.startswith("8 cells, 7 were wanted")
        return
    expected = layout.read(tmp_path, layout.rows)
    assert layout.read(tmp_path, [row | {"extra": "x"} for row in layout.rows]) == expected


@every_layout
def test_a_row_without_a_required_key_is_rejected_with_its_line(layout: Layout, tmp_path: Path) -> None:
    short = {key: value for key, value in layout.rows[0].items() if key != layout.required}
    if layout.kind == "csv":
        content = layout.content([layout.rows[0]])
        header, row = content.splitlines()
        content = "\n".join([header, row.rsplit(",", 1)[0], *layout.content(layout.rows).splitlines()[2:]])
        assert "cells, the header has" in only_rejection(layout, tmp_path, content)
    else:
        assert only_rejection(layout, tmp_path, [short, *layout.rows[1:]])


@every_layout
def test_a_file_without_a_required_key_is_one_error(layout: Layout, tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != layout.required} for row in layout.rows]
    with pytest.raises(SchemaError, match=rf"{layout.file_name}: .*expected"):
        layout.read(tmp_path, rows)


@every_layout
@pytest.mark.parametrize("content", ["", "\n\n", "<html>Not found</html>", "PK\x03\x04\x14", b"\xff\xfe[\x00"])
def test_a_file_of_another_kind_is_one_error(layout: Layout, tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(SchemaError, match=layout.file_name):
        layout.read(tmp_path, content)


@every_layout
def test_a_repeated_question_is_rejected_if_rows_have_ids(layout: Layout, tmp_path: Path) -> None:
    annotations = layout.read(tmp_path, [*layout.rows, layout.rows[0]])
    ids = [question.question_id for question in annotations.questions]
    assert len(set(ids)) == len(ids)
    if layout.id_keys:
        assert [rejected.line for rejected in annotations.rejected] == [first_line(layout) + 2]
        assert f"already {'object 1 ' if layout.kind == 'json' else ''}on line" in annotations.rejected[0].reason
    elif layout.adapter is how2qa:
        assert ids[2] == f"{ids[0]}#2"


@every_layout
def test_repeated_options_are_kept(layout: Layout, tmp_path: Path) -> None:
    row = dict(layout.rows[0])
    if layout.option_keys:
        row |= dict.fromkeys(layout.option_keys, "no")
    elif layout.options_key:
        row[layout.options_key] = [*row[layout.options_key][:-1], row[layout.options_key][-2]]
    elif "events" in row:
        row["events"] = ["no", "no"]
    elif "choices" in row:
        row["choices"] = [row["choices"][0], *row["choices"][1:3], row["choices"][1]]
    expected = layout.read(tmp_path, layout.rows).questions[0]
    annotations = layout.read(tmp_path, [row, *layout.rows[1:]])
    assert annotations.rejected == []
    question = annotations.questions[0]
    assert len(question.options) == len(expected.options)
    if layout.adapter.name != "how2qa":  # the position of its correct option depends on the row
        assert question.answer_index == expected.answer_index


@with_answers
@pytest.mark.parametrize("empty", ["dropped", None, ""])
def test_a_missing_answer_is_none(layout: Layout, tmp_path: Path, empty: str | None) -> None:
    assert layout.answer_key is not None
    if empty == "dropped":
        rows = [{key: value for key, value in row.items() if key != layout.answer_key} for row in layout.rows]
    else:
        rows = [row | {layout.answer_key: empty} for row in layout.rows]
    annotations = layout.read(tmp_path, rows)
    assert annotations.rejected == []
    assert [question.answer_index for question in annotations.questions] == [None, None]


@layouts_with(lambda layout: layout.answer_key and layout.kind != "parquet")
@pytest.mark.parametrize("answer", [5, -1, "one of them", 1.5, True, "٣", "1_0", [0]])
def test_an_answer_that_is_not_an_option_rejects_its_row(layout: Layout, tmp_path: Path, answer: Any) -> None:
    assert layout.answer_key is not None
    reason = only_rejection(layout, tmp_path, changed(layout, **{layout.answer_key: answer}))
    assert layout.answer_key in reason


@with_clips
def test_a_nan_time_leaves_the_clip_open_with_a_note(layout: Layout, tmp_path: Path) -> None:
    assert layout.clip is not None
    for start, end, bounds in [
        ("NaN", "NaN", (None, None)),
        ("nan", "3.5", (None, 3.5)),
        ("2", "nan", (2.0, None)),
        ("2", "inf", (2.0, None)),
    ]:
        question = layout.read(tmp_path, changed(layout, **layout.clip(start, end))).questions[0]
        assert (question.start_seconds, question.end_seconds) == bounds
        assert ("taken from the beginning" in question.note) == (bounds[0] is None)
        assert ("taken to the end" in question.note) == (bounds[1] is None)


@with_clips
def test_reversed_times_are_swapped_with_a_note(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert layout.clip is not None
    question = layout.read(tmp_path, changed(layout, **layout.clip("18.5", "7.25"))).questions[0]
    assert (question.start_seconds, question.end_seconds) == (7.25, 18.5)
    assert question.note == "start 18.5 s lies after end 7.25 s: swapped"
    assert f"{layout.file_name}: odd values in 1 questions" in caplog.text


@with_clips
def test_negative_times_and_any_number_notation_are_read_unchanged(layout: Layout, tmp_path: Path) -> None:
    assert layout.clip is not None
    for start, end in [("-1.5", "2"), ("1e-05", "3.2"), (".5", "60."), ("0", "0")]:
        question = layout.read(tmp_path, changed(layout, **layout.clip(start, end))).questions[0]
        assert (question.start_seconds, question.end_seconds) == (float(start), float(end))
        assert question.note == ""


@with_clips
@pytest.mark.parametrize("value", [None, "", "soon", "1:30-2:10", [1], {}, True, "5"])
def test_invalid_times_reject_their_row(layout: Layout, tmp_path: Path, value: Any) -> None:
    key = "ts" if "ts" in layout.rows[0] else "end"
    if key == "end" and value == "5":
        value = "5 s"
    assert only_rejection(layout, tmp_path, changed(layout, **{key: value})).removeprefix("object 1: ").startswith(key)


@every_layout
def test_names_with_slashes_colons_and_brackets_are_kept(layout: Layout, tmp_path: Path) -> None:
    name = "a b/c:d/00:13:00_[x].y"
    annotations = layout.read(tmp_path, changed(layout, **{layout.video_key: name}))
    assert annotations.questions[0].video_id == annotations.videos[0].video_id
    if layout.adapter is mlvu:
        assert annotations.videos[0].path.endswith(f"/{name}")
        return
    assert annotations.videos[0].video_id == name
    for path in (
        () if layout.adapter is longvideobench else (annotations.videos[0].path, *annotations.videos[0].other_paths)
    ):
        assert path.removeprefix("data/").startswith(name)


@every_layout
@pytest.mark.parametrize("name", ["/data/dog", "../dog", "a/../../dog", "", " "])
def test_an_empty_video_or_one_outside_the_folder_rejects_its_row(layout: Layout, tmp_path: Path, name: str) -> None:
    assert layout.video_key in only_rejection(layout, tmp_path, changed(layout, **{layout.video_key: name}))


@of_text
def test_an_unpaired_surrogate_is_rejected(layout: Layout, tmp_path: Path) -> None:
    if layout.kind.endswith("csv"):
        with pytest.raises(SchemaError, match="is not UTF-8"):
            layout.read(tmp_path, layout.content(layout.rows).encode() + b"\xed\xa0\x80")
        return
    key = (*layout.id_keys, layout.video_key)[0]
    content = layout.content(changed(layout, **{key: "SURROGATE"})).replace("SURROGATE", "\\ud800")
    assert "surrogate" in only_rejection(layout, tmp_path, content)


@of_text
def test_blank_lines_are_ignored(layout: Layout, tmp_path: Path) -> None:
    expected = layout.read(tmp_path, layout.rows)
    assert layout.read(tmp_path, layout.content(layout.rows).replace("\n", "\n\n") + "\n \n") == expected


# Each example overwrites the same files.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@every_layout
def test_a_truncated_file_gives_no_other_questions(layout: Layout, tmp_path: Path, data: st.DataObject) -> None:
    content = layout.content(layout.rows)
    cut = data.draw(st.integers(0, len(content) - 1))
    expected = layout.read(tmp_path, content).questions
    try:
        annotations = layout.read(tmp_path, content[:cut])
    except SchemaError:
        return
    assert layout.kind not in ("json", "parquet")
    if layout.kind == "jsonl":
        assert annotations.questions == expected[: len(annotations.questions)]
    else:  # a cut inside the last cell of a CSV file cannot be detected
        assert annotations.questions[:-1] == expected[: len(annotations.questions)][:-1]
    assert len(annotations.rejected) <= 1
    assert len(annotations.questions) + len(annotations.rejected) <= len(expected)


@every_layout
def test_an_unpublished_number_of_questions_logs_a_warning(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        layout.read(tmp_path, layout.rows)
    (size,) = [file.n_questions for file in layout.adapter.about.split_files() if file.name == layout.file_name]
    if size is not None:
        assert (
            f"{layout.file_name} has 2 questions; {layout.adapter.about.title}'s has {size} as published" in caplog.text
        )
    else:
        assert "as published" not in caplog.text


@every_layout
def test_files_of_a_split_include_those_beside_it(layout: Layout, tmp_path: Path) -> None:
    layout.read(tmp_path, layout.rows)
    names = [layout.file_name, *layout.beside]
    assert [file.name for file in files_of(layout.adapter, tmp_path, layout.split)] == names
    assert files_of(layout.adapter, tmp_path / layout.file_name, "any") == [tmp_path / name for name in names]


@every_layout
def test_a_missing_file_and_an_unknown_split_are_refused(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=rf"{layout.file_name}.*: missing \(found: no file of this data set\)"):
        layout.adapter.read(tmp_path, layout.split)
    with pytest.raises(MissingSourceError, match="no such folder"):
        layout.adapter.read(tmp_path / "nowhere", layout.split)
    with pytest.raises(MissingSourceError, match=r"no split 'validation'; there are: (train|val|dev|test)"):
        layout.adapter.read(tmp_path, "validation")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MissingSourceError, match=r"ends in \.txt"):
        layout.adapter.read(tmp_path / "notes.txt", layout.split)


# Valid and invalid values, tried under any key.
scalars = st.sampled_from(
    ["", " ", "1", "run", "2.5-3", "nan", "\ud800", None, True, 0, -7, 10**400, 2.5, float("inf")]
)
odd_columns = st.sampled_from(
    [
        [None, None],
        [1, None],
        [1.0, math.nan],
        [True, False],
        ["", "\0"],
        ["A. x", "N/A"],
        [b"\xff", b"x"],
        [[], None],
        [["a"], ["b", None]],
        [[1, 2], [3, 4]],
        [["A. x", "A. y"], ["B. x", "A. y"]],
        [["x"] * 30, ["", "y"]],
        [{"a": 1}, {"a": 2}],
        [datetime(2024, 1, 1), None],
        [[[1]], [[2]]],
        [2**62, -1],
    ]
)
odd_values = scalars | st.lists(scalars, max_size=5) | st.dictionaries(st.sampled_from(["choice", "a"]), scalars)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@layouts_with(lambda layout: layout.kind.startswith("json"))
def test_any_json_row_becomes_a_question_or_a_reason(layout: Layout, tmp_path: Path, data: st.DataObject) -> None:
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(layout.rows[0])), odd_values))
    content = layout.content(changed(layout, **changes)).encode(errors="surrogatepass")
    if b"\xed\xa0\x80" in content:
        with pytest.raises(SchemaError, match="is not UTF-8"):
            layout.read(tmp_path, content)
        return
    annotations = layout.read(tmp_path, content)
    assert len(annotations.questions) + len(annotations.rejected) == 2
    for question in annotations.questions:
        assert question.clip_id and question.question_id
        for bound in (dataclasses.astuple(moment) for moment in question.moments):
            assert bound[0] <= bound[1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@layouts_with(lambda layout: layout.kind == "parquet")
def test_any_parquet_row_becomes_a_question_or_a_reason(layout: Layout, tmp_path: Path, data: st.DataObject) -> None:
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(layout.rows[0])), odd_columns, min_size=1))
    rows = [row | {key: values[number] for key, values in changes.items()} for number, row in enumerate(layout.rows)]
    annotations = layout.read(tmp_path, rows)
    assert len(annotations.questions) + len(annotations.rejected) == 2
    for question in annotations.questions:
        assert question.clip_id and question.question_id and len(question.options) > 1


# Without NUL, which no text has, and "\r", which the csv module writes unquoted and reads as the end of a line.
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=6) | st.sampled_from(
    ["0", "7", "-1", "nan", "a/b", '"']
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@layouts_with(lambda layout: layout.kind.endswith("csv"))
def test_any_csv_row_becomes_a_question_or_a_reason(layout: Layout, tmp_path: Path, data: st.DataObject) -> None:
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(layout.rows[0])), cells))
    assume(any(cell.strip() for cell in map(str, {**layout.rows[0], **changes}.values())))  # a blank line is no row
    annotations = layout.read(tmp_path, changed(layout, **changes))
    assert len(annotations.questions) + len(annotations.rejected) == 2
    for question in annotations.questions:
        assert question.clip_id and question.question_id and len(question.options) > 1


def test_a_file_of_another_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tvqa_test_public.jsonl").write_text("{}\n")
    with pytest.raises(MissingSourceError, match=r"is split 'test_public' of TVQA, but split 'val' is asked for"):
        files_of(adapter_named("tvqa"), tmp_path / "tvqa_test_public.jsonl", "val")


def test_a_csv_file_without_a_last_line_end_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "how2QA_val_release.csv").write_text(
        "v1,[1:2],no,never,nobody,who,Ann\nv2,[1:2],no,never,nobody,who,Wh"
    )
    assert len(adapter_named("how2qa").read(tmp_path, "val").questions) == 2
    assert "the last line has no line end" in caplog.text


def test_an_empty_cell_of_a_how2qa_row_is_rejected_with_its_column(tmp_path: Path) -> None:
    (tmp_path / "how2QA_val_release.csv").write_text(
        "v1,[1:2],no,never,nobody,who,Ann\nv2,[1:2],no,never,nobody,who,\n"
    )
    [rejected] = adapter_named("how2qa").read(tmp_path, "val").rejected
    assert rejected.line == 2 and rejected.reason == "right missing or empty"
