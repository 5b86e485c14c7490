"""Subtitle files of both formats, damaged files, and cues that cannot be used as labels."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.digests import DigestCache
from cache.errors import MissingSourceError
from pipeline.datasets import timed_text
from pipeline.datasets.question import Annotations, Moment, Question, Video
from pipeline.engine.sources import Sources

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>A dog</i> runs
over   the grass.

2
00:00:02,500 --> 00:00:04,000
It barks.
"""
VTT = """WEBVTT - a talk

NOTE made by hand

intro
00:01.000 --> 00:02.500 align:start
<v Ann>A dog</v> runs<00:00:02.000>
over   the grass.

01:00:02.500 --> 01:00:04.000
It barks &amp; runs.
"""


def read(folder: Path, content: str | bytes, name: str = "dog.srt") -> Annotations:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return timed_text.read(folder, "")


def cues(annotations: Annotations) -> list[tuple[str, str, tuple[Moment, ...]]]:
    return [(question.question_id, question.question, question.moments) for question in annotations.questions]


def reasons(annotations: Annotations) -> list[tuple[int, str]]:
    return [(rejected.line, rejected.reason) for rejected in annotations.rejected]


def test_every_cue_is_a_query_for_its_moment(tmp_path: Path) -> None:
    annotations = read(tmp_path, SRT)
    first = Question(
        "dog#0", "dog", "A dog runs over the grass.", (), None, "", None, None, moments=(Moment(1.0, 2.5),)
    )
    assert annotations.questions[0] == first
    assert cues(annotations)[1] == ("dog#1", "It barks.", (Moment(2.5, 4.0),))
    assert annotations.videos == [Video("dog", "dog")] and annotations.rejected == []


def test_webvtt_markup_settings_and_comments_are_removed(tmp_path: Path) -> None:
    assert cues(read(tmp_path, VTT, "dog.vtt")) == [
        ("dog#0", "A dog runs over the grass.", (Moment(1.0, 2.5),)),
        ("dog#1", "It barks & runs.", (Moment(3602.5, 3604.0),)),
    ]


@pytest.mark.parametrize("name", ["dog.srt", "dog.vtt"])
@pytest.mark.parametrize("line_end", ["\r\n", "\r", "\n"])
def test_a_byte_order_mark_and_line_ends_change_nothing(tmp_path: Path, name: str, line_end: str) -> None:
    content = SRT if name == "dog.srt" else VTT
    plain = read(tmp_path, content, name)
    assert read(tmp_path, "\ufeff" + content.replace("\n", line_end), name) == plain


def test_text_in_any_script_is_kept(tmp_path: Path) -> None:
    text = "Das Mädchen läuft — 狗在跑 Ёж"
    ((_, query, _),) = cues(read(tmp_path, f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n"))
    assert query == text


def test_cues_with_equal_text_are_one_query_with_several_moments(tmp_path: Path) -> None:
    more = "\n3\n00:00:09,000 --> 00:00:10,000\n<b>It</b> barks.\n\n4\n00:00:11,000 --> 00:00:12,000\nThe end\n"
    assert cues(read(tmp_path, SRT + more))[1:] == [
        ("dog#1", "It barks.", (Moment(2.5, 4.0), Moment(9.0, 10.0))),
        ("dog#3", "The end", (Moment(11.0, 12.0),)),
    ]


def test_overlapping_cues_are_separate_queries(tmp_path: Path) -> None:
    content = "1\n00:00:01,000 --> 00:00:05,000\nOne\n\n2\n00:00:02,000 --> 00:00:03,000\nTwo\n"
    assert [moments for _, _, moments in cues(read(tmp_path, content))] == [(Moment(1.0, 5.0),), (Moment(2.0, 3.0),)]


def test_reversed_times_are_swapped_with_a_note(tmp_path: Path) -> None:
    (question,) = read(tmp_path, "1\n00:00:05,000 --> 00:00:02,000\nOne\n").questions
    assert question.moments == (Moment(2.0, 5.0),) and question.note == "start 5 s lies after end 2 s: swapped"


def test_a_number_or_an_empty_line_inside_a_cue_does_not_end_it(tmp_path: Path) -> None:
    content = "1\n00:00:01,000 --> 00:00:02,000\nIn\n1999\n\nit began\n\n2\n00:00:02,000 --> 00:00:03,000\nThen\n"
    assert [text for _, text, _ in cues(read(tmp_path, content))] == ["In 1999 it began", "Then"]


@pytest.mark.parametrize(
    ("cue", "reason"),
    [
        ("00:00:05,000 --> 00:00:06,000\n[Music]", "'[Music]': no words"),
        ("00:00:05,000 --> 00:00:06,000\n♪ (soft applause) ♪", "'♪ (soft applause) ♪': no words"),
        ("00:00:05,000 --> 00:00:05,000\nNow", "'00:00:05,000 --> 00:00:05,000': the cue lasts no time"),
        ("00:00:05,000 --> 00:00:06,000", "'00:00:05,000 --> 00:00:06,000': a cue without text"),
        ("00:00:05,000 --> 00:0\nNow", "'00:00:05,000 --> 00:0': not the times of a cue"),
        ("soon --> later\nNow", "'soon --> later': not the times of a cue"),
        ("00:00:05,000\nNow", "'00:00:05,000': not the times of a cue"),
    ],
)
@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_an_invalid_cue_is_rejected_with_its_line_and_other_ids_are_unchanged(
    tmp_path: Path, cue: str, reason: str, suffix: str
) -> None:
    content = f"1\n{cue}\n\n2\n00:00:07,000 --> 00:00:08,000\nThen\n"
    line = 2
    if suffix == ".vtt":
        content, reason, line = f"WEBVTT\n\n{content}".replace(",", "."), reason.replace(",", "."), 4
    annotations = read(tmp_path, content, f"dog{suffix}")
    ((rejected_line, rejected_reason),) = reasons(annotations)
    assert rejected_line == line and rejected_reason.startswith(reason)
    assert cues(annotations) == [("dog#1", "Then", (Moment(7.0, 8.0),))]


@pytest.mark.parametrize("end", range(len(SRT) - len("It barks.\n") - 31, len(SRT) - len("It barks.\n") + 1))
def test_a_file_cut_in_the_times_of_the_last_cue_loses_only_that_cue(tmp_path: Path, end: int) -> None:
    annotations = read(tmp_path, SRT[:end])
    assert cues(annotations) == [("dog#0", "A dog runs over the grass.", (Moment(1.0, 2.5),))]
    assert len(annotations.rejected) == (1 if "2" in SRT[:end].splitlines() else 0)


def test_unreadable_files_are_rejected_and_others_used(tmp_path: Path) -> None:
    read(tmp_path, "1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n".encode("latin-1"), "latin.srt")
    read(tmp_path, SRT.replace(",", "."), "not.vtt")
    read(tmp_path, b"", "zero.srt")
    read(tmp_path, b"\x00\x01 no subtitles", "noise.srt")
    annotations = read(tmp_path, SRT)
    assert [video.video_id for video in annotations.videos] == ["dog"]
    reasons_by_file = {rejected.file: rejected.reason for rejected in annotations.rejected}
    assert set(reasons_by_file) == {"latin.srt", "not.vtt", "zero.srt", "noise.srt"}
    latin = reasons_by_file["latin.srt"]
    assert latin.startswith("byte 0xe9 at offset ") and "save the file as UTF-8" in latin
    assert reasons_by_file["not.vtt"] == "begins with '1'; WEBVTT was wanted"
    assert reasons_by_file["zero.srt"].startswith("holds no cue")
    assert str(tmp_path) not in str(reasons_by_file)  # no machine paths in an artifact


def test_subfolders_are_part_of_video_names_and_can_be_splits(tmp_path: Path) -> None:
    for name in ("train/show/a.srt", "train/b.VTT", "val/a.srt", "._b.srt"):
        read(tmp_path, VTT if name.endswith("VTT") else SRT, name)
    assert [video.path for video in timed_text.read(tmp_path, "").videos] == ["train/b", "train/show/a", "val/a"]
    assert [question.question_id for question in timed_text.read(tmp_path, "val").questions] == ["val/a#0", "val/a#1"]
    with pytest.raises(MissingSourceError, match=r"subfolders there: train, val"):
        timed_text.read(tmp_path, "test")


def test_only_one_of_two_files_of_a_video_is_used(tmp_path: Path) -> None:
    read(tmp_path, VTT, "dog.vtt")
    annotations = read(tmp_path, SRT)
    assert len(annotations.questions) == 2
    assert [(bad.file, bad.reason) for bad in annotations.rejected] == [
        ("dog.vtt", "the video 'dog' has another file of subtitles, which is used")
    ]


@pytest.mark.parametrize(("name", "reason"), [("", "holds no subtitles"), ("gone", "no such folder")])
def test_a_folder_without_subtitles_is_an_error(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(MissingSourceError, match=reason):
        timed_text.files(tmp_path / name, "")
    with pytest.raises(MissingSourceError, match=r"ends in \.txt"):
        timed_text.files(tmp_path / "notes.txt", "")


def test_renaming_subtitles_changes_the_identity(tmp_path: Path) -> None:
    read(tmp_path / "data", SRT)
    sources = Sources(DigestCache(tmp_path / "digests.json"), {"annotations": [str(tmp_path / "data")]}, download=False)
    before = sources.annotations("timed_text", "").id
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "data").symlink_to(tmp_path / "moved")
    assert sources.annotations("timed_text", "").id == before
    (tmp_path / "data" / "dog.srt").rename(tmp_path / "data" / "cat.srt")
    assert sources.annotations("timed_text", "").id != before


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.lists(
        st.sampled_from(["1", "2", "", "-->", "00:00:01,000 --> 00:00:02,000", "00:01.5", "a <b", "\ud7ff", "WEBVTT"])
    )
)
@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_any_lines_give_questions_or_rejections(tmp_path: Path, content: list[str], suffix: str) -> None:
    annotations = read(tmp_path, "\n".join(content), f"dog{suffix}")
    assert annotations.questions or annotations.rejected
    assert len({question.question_id for question in annotations.questions}) == len(annotations.questions)
