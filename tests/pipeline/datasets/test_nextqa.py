import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.errors import MissingSourceError, SchemaError
from pipeline.datasets import nextqa
from pipeline.datasets.adapter import files_of
from pipeline.datasets.question import Annotations, Question, Rejected, Video

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
# The first rows of the published val.csv.
MEN = "4010069381,369,640,480,how do the two man play the instrument,0,6,CH,roll the handle,tap their feet,strum the string,hit with sticks,pat with hand"  # noqa: E501
BOY = "4882821564,2697,640,480,why did the boy pick up one present from the group of them and move to the sofa,2,1,CW,share with the girl,approach lady sitting there,unwrap it,playing with toy train,gesture something"  # noqa: E501


def read(folder: Path, content: str | bytes, videos: dict[str, str] | None = None, split: str = "val") -> Annotations:
    (folder / f"{split}.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "map_vid_vidorID.json").write_text(json.dumps(videos or {}))
    return nextqa.read(folder, split)


def lines(*rows: str) -> str:
    return "\n".join([HEADER, *rows, ""])


def reasons(annotations: Annotations) -> dict[int, str]:
    return {rejected.line: rejected.reason for rejected in annotations.rejected}


def test_a_row_becomes_a_question_with_the_official_punctuation(tmp_path: Path) -> None:
    annotations = read(tmp_path, lines(MEN), {"4010069381": "1164/4010069381"})
    assert annotations.questions == [
        Question(
            question_id="CH_4010069381_6",
            video_id="4010069381",
            question="how do the two man play the instrument?",
            options=("roll the handle.", "tap their feet.", "strum the string.", "hit with sticks.", "pat with hand."),
            answer_index=0,
            question_type="CH",
        )
    ]
    assert annotations.videos == [Video("4010069381", "1164/4010069381.mp4")]
    assert annotations.rejected == []


def test_punctuation_is_always_added_and_spaces_are_kept(tmp_path: Path) -> None:
    row = BOY.replace("to the sofa", "to the sofa?").replace("unwrap it", "unwrap it ")
    (question,) = read(tmp_path, lines(row)).questions
    assert question.question.endswith("to the sofa??")
    assert question.options[2] == "unwrap it ."


def test_a_video_missing_from_the_map_is_still_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    annotations = read(tmp_path, lines(MEN, BOY), {"4010069381": "1164/4010069381"})
    assert annotations.videos[1] == Video("4882821564", "4882821564.mp4")
    assert "does not have 1 of 2 videos" in caplog.text


def test_a_video_of_several_questions_is_listed_once(tmp_path: Path) -> None:
    annotations = read(tmp_path, lines(MEN, BOY, MEN.replace(",6,CH", ",7,CH")))
    assert [video.video_id for video in annotations.videos] == ["4010069381", "4882821564"]


def test_columns_can_be_reordered_and_extended(tmp_path: Path) -> None:
    (cells,) = csv.DictReader([HEADER, MEN])
    shuffled = dict(sorted(cells.items())) | {"extra": "x"}
    content = ",".join(shuffled) + "\n" + ",".join(shuffled.values()) + "\n"
    (tmp_path / "b").mkdir()
    assert read(tmp_path, content) == read(tmp_path / "b", lines(MEN))


def test_invalid_rows_are_rejected_with_their_lines_and_others_used(tmp_path: Path) -> None:
    comma = MEN.replace("roll the handle", "roll, the handle")
    no_option = MEN.replace("strum the string", " ")
    two_lines = MEN.replace(",6,CH", ",8,CH").replace("tap their feet", '"tap\ntheir feet"')
    annotations = read(tmp_path, lines(comma, "", two_lines, no_option, BOY, ",,,,,,,,,,,,", BOY[:60]))
    assert [question.question_id for question in annotations.questions] == ["CH_4010069381_8", "CW_4882821564_1"]
    assert reasons(annotations) == {
        2: "14 cells, the header has 13: a line cut short, or a comma outside quotes?",
        6: "a2 is missing or empty",
        9: "5 cells, the header has 13: a line cut short, or a comma outside quotes?",
    }
    assert annotations.rejected[0] == Rejected("val.csv", 2, reasons(annotations)[2])


def test_a_file_cut_inside_a_quoted_cell_rejects_its_last_row(tmp_path: Path) -> None:
    annotations = read(tmp_path, lines(MEN, BOY.replace("gesture something", '"gesture, some'))[:-1])
    assert len(annotations.questions) == 1
    assert "a quote is not closed" in reasons(annotations)[3]


def test_an_unclosed_quote_is_rejected_with_its_lines(tmp_path: Path) -> None:
    annotations = read(tmp_path, lines(MEN.replace("roll the handle", '"roll the handle'), BOY))
    assert annotations.questions == []
    assert reasons(annotations)[2].startswith("lines 2 to 3 read as one row")


def test_missing_columns_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"val\.csv: no column qid, a4; found video, .*, option; expected"):
        read(tmp_path, lines(MEN).replace("qid", "id").replace("a4", "option"))


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="has answer twice"):
        read(tmp_path, lines(MEN).replace("frame_count", "answer"))


@pytest.mark.parametrize("content", ["", "\n\n", HEADER, '"video'])
def test_a_file_without_questions_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(SchemaError, match=r"val\.csv"):
        read(tmp_path, content)


def test_text_that_is_not_utf8_is_refused_with_its_byte_offset(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + lines(MEN).encode().replace(b"roll", b"r\xf4le")
    offset = content.index(b"\xf4")
    with pytest.raises(SchemaError, match=rf"val\.csv: byte 0xf4 at offset {offset} is not UTF-8"):
        read(tmp_path, content)


def test_a_missing_file_is_named_with_the_present_files(tmp_path: Path) -> None:
    read(tmp_path, lines(MEN))
    with pytest.raises(MissingSourceError, match="no split 'valid'; there are: train, val, test"):
        files_of(nextqa, tmp_path, "valid")
    with pytest.raises(MissingSourceError, match=r"test\.csv: missing \(found: val\.csv\)"):
        files_of(nextqa, tmp_path, "test")
    (tmp_path / "map_vid_vidorID.json").unlink()
    with pytest.raises(MissingSourceError, match=r"map_vid_vidorID\.json: missing"):
        nextqa.read(tmp_path, "val")
    with pytest.raises(MissingSourceError, match="no such folder"):
        nextqa.read(tmp_path / "nowhere", "val")


@pytest.mark.parametrize("content", ["{", "[]", '{"1": 2}'])
def test_an_invalid_video_map_is_refused(tmp_path: Path, content: str) -> None:
    read(tmp_path, lines(MEN))
    (tmp_path / "map_vid_vidorID.json").write_text(content)
    with pytest.raises(SchemaError, match="map_vid_vidorID"):
        nextqa.read(tmp_path, "val")


def test_types_are_grouped_as_in_the_paper() -> None:
    groups = {kind: nextqa.group(kind) for kind in ("CW", "CH", "TN", "TC", "TP", "DC", "DL", "DO")}
    assert [kind for kind, group in groups.items() if group == "Causal"] == ["CW", "CH"]
    assert [kind for kind, group in groups.items() if group == "Temporal"] == ["TN", "TC", "TP"]
    assert [kind for kind, group in groups.items() if group == "Descriptive"] == ["DC", "DL", "DO"]
    assert nextqa.group("") == nextqa.group("C") == nextqa.group("question") == ""


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


# Each example overwrites the same files; hypothesis first builds its table of characters.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(*[texts] * 6), min_size=1, max_size=5))
def test_any_text_survives_a_csv_file_unchanged(tmp_path: Path, rows: list[tuple[str, ...]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(HEADER.split(","))
    for number, (question, *options) in enumerate(rows):
        writer.writerow(["v", 1, 1, 1, question, 0, number, "CW", *options])
    annotations = read(tmp_path, buffer.getvalue())
    assert annotations.rejected == []
    assert [(q.question, *q.options) for q in annotations.questions] == [
        (question + "?", *(option + "." for option in options)) for question, *options in rows
    ]
