"""Subtitles read together with the questions of published data sets."""

import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from cache.digests import DigestCache
from cache.errors import MissingSourceError, RecipeError, SchemaError
from cache.store import Store
from pipeline.datasets.question import Video
from pipeline.datasets.readers.subtitles import files_of_videos, read_cues
from pipeline.engine.build import build
from pipeline.engine.recipe import load
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from stages.all import STAGES
from stages.list_questions import ListQuestions, Questions, list_questions
from tests.pipeline.datasets.long_layouts import LONGVIDEOBENCH_JSON, VIDEOMME_JSON

SRT = "1\n00:00:01,000 --> 00:00:03,000\n<i>Hello</i>\nthere\n\n2\n00:00:02,500 --> 00:00:02,700\nYes.\n\n"


def list_with_subtitles(folder: Path, dataset: str, split: str, **config: Any) -> Questions:
    sources = Sources(DigestCache(folder / "digests.json"), {"annotations": [str(folder)]}, download=False)
    cfg = ListQuestions(dataset=dataset, split=split, subtitles=True, **config)
    questions = build(
        list_questions, cfg, RunContext(Store(folder / "store")), [sources.annotations(dataset, split, True)]
    )
    assert isinstance(questions, Questions)
    return questions


def longvideobench(folder: Path) -> Path:
    rows = [dict(row) for row in LONGVIDEOBENCH_JSON.rows]
    rows[0] |= {"subtitle_path": "86CxyhFV9MI_en.json", "starting_timestamp_for_subtitles": 45}
    rows[1] |= {"subtitle_path": "7203_en.json", "starting_timestamp_for_subtitles": 0}
    (folder / "lvb_val.json").write_text(json.dumps(rows))
    (folder / "subtitles").mkdir()
    return folder / "subtitles"


def test_both_longvideobench_formats_have_times_of_the_cut_video(tmp_path: Path) -> None:
    cues = [{"timestamp": [46.0, 48.5], "text": "[applause]"}, {"timestamp": [50.0, None], "text": "and  run"}]
    folder = longvideobench(tmp_path)
    (folder / "86CxyhFV9MI_en.json").write_text(json.dumps(cues))
    (folder / "7203_en.json").write_text(json.dumps([{"start": "00:00:01.500", "end": "00:01:02.000", "line": "red"}]))
    assert [
        tuple(row.values()) for row in list_with_subtitles(tmp_path, "longvideobench", "val").rows("subtitles")
    ] == [
        ("86CxyhFV9MI", 1.0, 3.5, "[applause]"),
        ("86CxyhFV9MI", 5.0, float("inf"), "and run"),
        ("@jess-7203", 1.5, 62.0, "red"),
    ]


def test_a_frame_has_the_subtitles_shown_at_its_time(tmp_path: Path) -> None:
    (tmp_path / "videomme").mkdir()
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "videomme" / "videomme.json").write_text(json.dumps(VIDEOMME_JSON.rows))
    video = str(VIDEOMME_JSON.rows[0]["videoID"])
    (tmp_path / "subtitle" / f"{video}.srt").write_text(SRT)  # as the hub's archives unpack
    cues = list_with_subtitles(tmp_path / "videomme", "videomme", "test").subtitles()[video]
    shown = {0.9: "", 1.0: "Hello there", 2.2: "Hello there Yes.", 2.9: "Hello there Yes.", 3.0: "Yes.", 3.1: ""}
    assert {seconds: cues.shown_at(seconds) for seconds in shown} == shown


def test_videos_without_subtitles_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = longvideobench(tmp_path)
    (folder / "7203_en.json").write_text(json.dumps([{"timestamp": [1, 2], "text": "red"}]))
    questions = list_with_subtitles(tmp_path, "longvideobench", "val")
    assert list(questions.subtitles()) == ["@jess-7203"] and len(questions.questions()) == 2
    assert questions.record.dropped == {"video without subtitles": 1}
    assert "1 of 2 videos have no subtitles" in caplog.text


def test_own_subtitles_are_named_like_their_videos_with_an_optional_language(tmp_path: Path) -> None:
    (tmp_path / "questions.csv").write_text("video,question,a0,a1\nshow/a.mp4,Who?,x,y\nb.mp4,Who?,x,y\n")
    (tmp_path / "subtitles" / "show").mkdir(parents=True)
    (tmp_path / "subtitles" / "show" / "a.en.srt").write_text(SRT)
    (tmp_path / "subtitles" / "b.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nbye\n")
    (tmp_path / "subtitles" / "b.de.srt").write_text(SRT)
    texts = [(row["video_id"], row["text"]) for row in list_with_subtitles(tmp_path, "plain", "").rows("subtitles")]
    assert texts == [("show/a.mp4", "Hello there"), ("show/a.mp4", "Yes."), ("b.mp4", "bye")]


def test_the_identity_depends_on_content_and_names_of_subtitles(tmp_path: Path) -> None:
    folder = longvideobench(tmp_path)
    sources = Sources(DigestCache(tmp_path / "digests.json"), {"annotations": [str(tmp_path)]}, download=False)

    def identity(subtitles: bool) -> str | None:
        return sources.annotations("longvideobench", "val", subtitles).id

    ids = [identity(False), identity(True)]
    for content in ("[]", "[ ]"):
        (folder / "7203_en.json").write_text(content)
        ids.append(identity(True))
    (folder / "7203_en.json").rename(folder / "7204_en.json")
    ids.append(identity(True))
    assert len(set(ids)) == 5 and identity(False) == ids[0]
    assert "subtitles" not in load("plain", STAGES).config_of("list_questions").model_dump()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            '[{"timestamp": [1, 2], "text": "x"},\n {"timestamp": [1], "text": "y"}]',
            r"cue 2 on line 2: timestamp",
        ),
        ("a.json", '[{"timestamp": [1, 2], "text": "x"},\n\n 7]', r"cue 2 on line 3: a JSON int"),
        ("a.json", '[{"start": "soon", "end": 3, "line": "x"}]', r"cue 1 on line 1: start is 'soon'"),
        ("a.json", '[{"timestamp": [1, 2], "text": 5.5}]', r"cue 1 on line 1: text is a JSON float"),
        ("a.json", '[{"timestamp": [1, 2],\n "text"', r"cut short or damaged \(object 1 on line 1"),
        ("a.srt", SRT + "3\n00:00:04,000 -> 00:00:05,000\nNo.\n\n4\n00:00:06,000 --> 5\nNo.", r"line \d+: '00:00:0"),
        ("a.srt", "what is this?", "line 1: no cue"),
        ("a.vtt", SRT, "begins with '1'; WEBVTT was wanted"),
    ],
)
def test_a_malformed_file_is_an_error_with_file_and_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SchemaError, match=message) as error:
        read_cues(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.json", "a.srt"])
def test_a_file_without_cues_is_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[]" if name == "a.json" else "\n1\n00:00:01,000 --> 00:00:02,000\n\n")
    assert read_cues(tmp_path / name) == []


def test_unavailable_subtitles_are_one_error(tmp_path: Path) -> None:
    longvideobench(tmp_path).rmdir()
    with pytest.raises(
        MissingSourceError, match=r"subtitles: no such folder; expected the subtitles of LongVideoBench"
    ):
        list_with_subtitles(tmp_path, "longvideobench", "val").subtitles()
    with pytest.raises(RecipeError, match=r"no subtitles of 'nextqa' are read; of these some are: longvideobench, "):
        load("plain", STAGES, ["list_questions.dataset=nextqa", "list_questions.subtitles=true"])


@pytest.mark.parametrize(("on_disk", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_subtitles_are_located_in_the_other_unicode_form(on_disk: str, typed: str) -> None:
    file, exact = Path(f"{normalize(on_disk, 'Zoë café')}.en.vtt"), Path(f"{normalize(typed, 'Zoë café')}.vtt")
    id = normalize(typed, "Zoë café")
    by_name, by_annotations = Video(id, f"{id}.mp4"), Video("1", "1.mp4", subtitles=f"{id}.en.vtt")
    assert files_of_videos([by_name, by_annotations], {file: file.name}) == {id: file, "1": file}
    assert files_of_videos([by_name], {file: file.name, exact: exact.name}) == {id: exact}
