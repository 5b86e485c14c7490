import re
from pathlib import Path

import pytest

from cli import main
from pipeline.datasets.registry import adapter_named, adapter_names
from tests.pipeline.datasets.layouts import HOW2QA_CSV, NEXTQA, TVQA


@pytest.fixture(autouse=True)
def no_configured_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind in ("ANNOTATIONS", "VIDEOS", "CONFIG", "STORE"):
        monkeypatch.delenv(f"SEVILA_{kind}", raising=False)
    monkeypatch.chdir(tmp_path)


def listing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["datasets", *arguments]) == 0
    return re.sub(" +", " ", capsys.readouterr().out)


def test_every_data_set_is_listed_with_its_files_source_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    text = listing(capsys)
    for adapter in map(adapter_named, adapter_names()):
        assert f"{adapter.name}: {adapter.about.title}\n" in text
        assert f" published {adapter.about.published}\n licence {adapter.about.licence}\n" in text
        for file in adapter.about.split_files():
            assert file.name in text
    assert " val val.csv 4,996 questions\n" in text
    assert text.count("annotations not configured") == text.count("videos not configured") == len(adapter_names())
    assert "--annotations NAME=FOLDER" in text and "SEVILA_VIDEOS" in text and "sevila.toml" in text


def test_present_and_missing_files_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    NEXTQA.read(tmp_path, NEXTQA.rows)
    (tmp_path / "sevila.toml").write_text(f'[annotations]\nnextqa = "{tmp_path}"\ntvqa = "nowhere"\n')
    text = listing(capsys)
    assert " val val.csv 4,996 questions present\n" in text
    assert " test test.csv 8,564 questions missing\n" in text
    assert " map_vid_vidorID.json present\n" in text
    assert f" annotations {tmp_path}\n" in text
    assert f" annotations {tmp_path / 'nowhere'}: nothing is there\n" in text


def test_a_named_data_set_is_listed_with_its_questions_and_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TVQA.read(tmp_path, [*TVQA.rows, TVQA.rows[0]])
    (tmp_path / "videos" / "met_frames" / TVQA.rows[0]["vid_name"]).mkdir(parents=True)
    paths = ["--annotations", f"tvqa={tmp_path}", "--videos", f"tvqa={tmp_path / 'videos'}"]
    text = listing(capsys, "tvqa", *paths)
    assert "tvqa_val.jsonl: 2 questions, 2 with a known answer, 0 with moments, about 2 videos; 1 row rejected" in text
    assert " line 3: question_id '7' is already on line 1\n" in text
    assert " 1 video found, 1 missing: s03e02_seg02_clip_10\n" in text
    assert "nextqa" not in text


def test_a_damaged_file_is_reported_and_others_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    HOW2QA_CSV.read(tmp_path, HOW2QA_CSV.rows)
    (tmp_path / "how2qa_train_release.jsonl").write_text("<html>")
    text = listing(capsys, "how2qa", "--annotations", str(tmp_path))
    assert "how2qa_train_release.jsonl: an HTML page" in text
    assert "how2QA_val_release.csv: 2 questions" in text
    assert "missing:" not in text


def test_an_unknown_data_set_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "nxtqa"]) == 1
    assert "did you mean 'nextqa'?" in capsys.readouterr().err
