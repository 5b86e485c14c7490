import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets import plain
from pipeline.datasets.question import Annotations, Moment, Question, Video

DOG = {"video": "dog.mp4", "question": "what does the dog do?", "options": ["run", "sleep", "eat"]}


def read_csv(folder: Path, content: str, split: str = "all") -> Annotations:
    (folder / "questions.csv").write_text(content, encoding="utf-8")
    return plain.read(folder, split)


def read_jsonl(folder: Path, *rows: dict[str, Any] | str, split: str = "all") -> Annotations:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return plain.read(folder, split)


def reason(annotations: Annotations) -> str:
    (rejected,) = annotations.rejected
    return rejected.reason


def test_a_row_requires_only_video_question_and_two_options(tmp_path: Path) -> None:
    annotations = read_csv(tmp_path, "video,question,a0,a1\nclips/dog, what is it? ,a dog,a cat\n")
    assert annotations.questions == [
        Question("clips/dog#0", "clips/dog", "what is it?", ("a dog", "a cat"), None, "", None, None)
    ]
    assert annotations.videos == [Video("clips/dog", "clips/dog")]


def test_csv_and_jsonl_give_the_same_questions(tmp_path: Path) -> None:
    full = DOG | {"question_id": "7", "answer": 1, "type": "what", "start_seconds": 2.5, "end_seconds": 11.2}
    of_jsonl = read_jsonl(tmp_path, full, DOG)
    (tmp_path / "questions.jsonl").unlink()
    of_csv = read_csv(
        tmp_path,
        "question_id,video,question,answer,type,start_seconds,end_seconds,a0,a1,a2,a3\n"
        "7,dog.mp4,what does the dog do?,1,what,2.5,11.2,run,sleep,eat,\n"
        ",dog.mp4,what does the dog do?,,,,,run,sleep,eat,\n",
    )
    assert of_csv == of_jsonl
    assert of_csv.questions[0].clip_id == "dog.mp4[2.5-11.2]"
    assert of_csv.questions[0].answer_index == 1
    assert len(of_csv.videos) == 1


def test_question_ids_count_the_rows_of_each_video(tmp_path: Path) -> None:
    cat = DOG | {"video": "cat.mp4", "split": "train"}
    bad = DOG | {"options": ["alone"]}
    ids = [
        question.question_id for question in read_jsonl(tmp_path, DOG, cat, bad, DOG, cat | {"split": "test"}).questions
    ]
    assert ids == ["dog.mp4#0", "cat.mp4#0", "dog.mp4#2", "cat.mp4#1"]
    of_split = [question.question_id for question in plain.read(tmp_path, "test").questions]
    assert of_split == ["cat.mp4#1"]


@pytest.mark.parametrize(
    ("answer", "position"), [("1", 1), (1, 1), ("B", 1), ("sleep", 1), (" eat ", 2), (0, 0), ("", None), (None, None)]
)
def test_an_answer_is_an_index_a_letter_or_an_option_text(tmp_path: Path, answer: Any, position: int | None) -> None:
    (question,) = read_jsonl(tmp_path, DOG | {"answer": answer}).questions
    assert question.answer_index == position


@pytest.mark.parametrize("answer", ["3", 3, -1, "D", "run away", "RUN", "01"])
def test_an_answer_that_is_not_an_option_rejects_its_row(tmp_path: Path, answer: Any) -> None:
    assert "an index from 0 to 2, a letter from A to C or an option's text" in reason(
        read_jsonl(tmp_path, DOG | {"answer": answer})
    )


@pytest.mark.parametrize("answer", [1.0, True, ["run"]])
def test_an_answer_of_another_json_type_rejects_its_row(tmp_path: Path, answer: Any) -> None:
    assert f"answer is a JSON {type(answer).__name__}" in reason(read_jsonl(tmp_path, DOG | {"answer": answer}))


@pytest.mark.parametrize(
    ("options", "answer", "meanings"),
    [(["1", "2", "3"], "1", "[0, 1]"), (["B", "A"], "A", "[0, 1]"), (["run", "run", "eat"], "run", "[0, 1]")],
)
def test_an_answer_with_two_meanings_rejects_its_row(
    tmp_path: Path, options: list[str], answer: str, meanings: str
) -> None:
    annotations = read_jsonl(tmp_path, DOG | {"options": options, "answer": answer})
    assert f"it could mean the options {meanings}" in reason(annotations)


def test_an_answer_that_is_index_and_text_of_the_same_option_is_accepted(tmp_path: Path) -> None:
    (question,) = read_jsonl(tmp_path, DOG | {"options": [0, 1, 2], "answer": "1"}).questions
    assert question.options == ("0", "1", "2")
    assert question.answer_index == 1


@pytest.mark.parametrize("n_options", [0, 1, 27])
def test_too_few_or_too_many_options_reject_a_row(tmp_path: Path, n_options: int) -> None:
    annotations = read_jsonl(tmp_path, DOG | {"options": [f"option {i}" for i in range(n_options)]})
    assert reason(annotations) == f"{n_options} options, 2 to 26 were wanted"


def test_an_empty_option_before_another_rejects_its_row(tmp_path: Path) -> None:
    assert reason(read_csv(tmp_path, "video,question,a0,a1,a2\nv,q,a,,c\n")) == "option 1 is missing or empty"


@pytest.mark.parametrize("key", ["video", "question"])
def test_an_empty_video_or_question_rejects_its_row(tmp_path: Path, key: str) -> None:
    assert reason(read_jsonl(tmp_path, DOG | {key: " "})) == f"{key} is missing or empty"


@pytest.mark.parametrize("seconds", ["nan", "inf", -1, "0:30", True, [1]])
def test_an_invalid_bound_rejects_its_row(tmp_path: Path, seconds: Any) -> None:
    assert "end_seconds is" in reason(read_jsonl(tmp_path, DOG | {"end_seconds": seconds}))


def test_moments_are_read(tmp_path: Path) -> None:
    (question,) = read_jsonl(tmp_path, DOG | {"moments": [[2.5, 4], [7, 9.5]]}).questions
    assert question.moments == (Moment(2.5, 4.0), Moment(7.0, 9.5))
    assert "a list of [start, end]" in reason(read_jsonl(tmp_path, DOG | {"moments": [2.5, 4]}))


def test_a_json_nan_rejects_its_row(tmp_path: Path) -> None:
    assert "start_seconds is nan" in reason(read_jsonl(tmp_path, DOG | {"start_seconds": float("nan")}))


def test_a_clip_that_ends_before_it_starts_is_rejected(tmp_path: Path) -> None:
    assert "is before" in reason(read_jsonl(tmp_path, DOG | {"start_seconds": 9, "end_seconds": 3}))


@pytest.mark.parametrize("video", ["/data/dog.mp4", "../dog.mp4", "a/../../dog.mp4"])
def test_a_video_outside_the_videos_folder_is_rejected(tmp_path: Path, video: str) -> None:
    assert "below the videos folder" in reason(read_jsonl(tmp_path, DOG | {"video": video}))


def test_an_unpaired_surrogate_rejects_its_row(tmp_path: Path) -> None:
    assert "surrogate" in reason(read_jsonl(tmp_path, json.dumps(DOG).replace("run", "\\ud800")))


def test_a_repeated_question_id_is_rejected_with_the_line_of_the_first(tmp_path: Path) -> None:
    annotations = read_jsonl(tmp_path, DOG, DOG | {"question_id": "x"}, DOG | {"question_id": "x"})
    assert reason(annotations) == "question_id 'x' is already on line 2"


def test_lines_that_are_not_json_objects_are_rejected_and_others_used(tmp_path: Path) -> None:
    separator = json.dumps(DOG | {"question": "a\u2028b"}, ensure_ascii=False)  # ends a line for Python, not for JSON
    annotations = read_jsonl(tmp_path, DOG, "", "[1]", "{'video': 1}", separator, '{"video": "d')
    assert len(annotations.questions) == 2
    assert annotations.questions[1].question == "a\u2028b"
    assert [rejected.line for rejected in annotations.rejected] == [3, 4, 6]
    assert annotations.rejected[0].reason == "a JSON list, an object was wanted"


def test_a_key_with_two_different_values_rejects_its_row(tmp_path: Path) -> None:
    twice = json.dumps(DOG)[:-1] + ', "question": "Another one?"}'
    annotations = read_jsonl(tmp_path, twice, json.dumps(DOG)[:-1] + f', "question": {json.dumps(DOG["question"])}}}')
    assert [question.question for question in annotations.questions] == [DOG["question"]]
    assert "the key 'question' stands twice" in annotations.rejected[0].reason


def test_a_json_file_without_one_object_per_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"questions\.jsonl: no line is a JSON object .*one question per line"):
        read_jsonl(tmp_path, json.dumps([DOG, DOG]))


def test_a_missing_column_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"no column question, a1; found video, text, a0; expected"):
        read_csv(tmp_path, "video,text,a0\nv,q,a\n")
    with pytest.raises(SchemaError, match=r"found the option columns a0, a1, a3"):
        read_csv(tmp_path, "video,question,a0,a1,a3\nv,q,a,b,d\n")


def test_an_unused_column_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_csv(tmp_path, "video,question,a0,a1,start\nv,q,a,b,2.5\n")
    assert "columns not used: start" in caplog.text


def test_only_the_rows_of_the_split_are_read(tmp_path: Path) -> None:
    rows = [DOG | {"split": "train"}, DOG | {"split": "val"}, DOG | {"split": "train", "answer": 9}]
    read_jsonl(tmp_path, *rows)
    assert len(plain.read(tmp_path, "val").questions) == 1
    assert plain.read(tmp_path, "val").rejected == []
    assert len(plain.read(tmp_path, "all").questions) == len(plain.read(tmp_path, "").questions) == 2
    with pytest.raises(MissingSourceError, match="no row of split 'test'; found 'train', 'val'"):
        plain.read(tmp_path, "test")


def test_a_file_without_a_split_column_is_every_split(tmp_path: Path) -> None:
    assert len(read_jsonl(tmp_path, DOG, split="test").questions) == 1


def test_a_file_can_be_given_instead_of_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "mine.CSV"
    path.write_text("video,question,a0,a1\nv,q,a,b\n")
    assert plain.files(path, "all") == [path]
    assert len(plain.read(path, "all").questions) == 1


def test_two_files_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=r"holds no questions\.csv or questions\.jsonl"):
        plain.files(tmp_path, "all")
    with pytest.raises(MissingSourceError, match="no such file or folder"):
        plain.files(tmp_path / "nowhere", "all")
    (tmp_path / "questions.csv").touch()
    (tmp_path / "questions.jsonl").touch()
    with pytest.raises(MissingSourceError, match="holds both"):
        plain.files(tmp_path, "all")
    (tmp_path / "questions.xlsx").touch()
    with pytest.raises(MissingSourceError, match=r"ends in \.xlsx"):
        plain.files(tmp_path / "questions.xlsx", "all")


# Valid and invalid values, tried under any key.
texts = ["", " ", "A", "1", "run", "dog.mp4", "2.5", "nan", "\ud800"]
numbers = [None, True, 0, 1, -7, 10**400, 2.5, float("inf")]
lists = [[], ["run"], ["run", "eat"], ["A", 1], ["run", "run", None], [[]] * 3, {}, {"a": 1}]
json_values = st.sampled_from([*texts, *numbers, *lists])
keys = sorted(plain.COLUMNS - {"split"})
json_rows = st.dictionaries(st.sampled_from(keys), json_values).map(lambda changes: DOG | changes)


# Each example overwrites the same file.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(json_rows, min_size=1, max_size=4))
def test_any_row_becomes_a_question_or_a_reason(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    annotations = read_jsonl(tmp_path, *rows)
    assert len(annotations.questions) + len(annotations.rejected) == len(rows)
    for question in annotations.questions:
        assert 2 <= len(question.options) <= 26
        assert question.answer_index is None or 0 <= question.answer_index < len(question.options)
        assert question.clip_id
