"""`sevila ask`: one question about one video."""

import json
import re
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store
from cli import main
from cli.options import ExecutionOptions
from pipeline import loaded_models
from pipeline.devices import DeviceMemory
from pipeline.engine.stage import RunContext
from pipeline.loaded_models import Models, keeping_models
from pipeline.models import checkpoint
from reports.ask_answer import answer_of, percent_text
from reports.ask_page import answer_page
from reports.ask_run import AskRequest, ask_video
from reports.ask_server import answered_upload
from tests.stages.runs import artifact
from tests.videos import make_video, rotate

BLIP2 = "Salesforce/blip2-flan-t5-xl"
SMALL = ("--set", "sample_frames.size=28", "--set", "sample_frames.frames=8", "--device", "cpu")


def ask(demo: Path, store: Path, question: str, *more: str, video: str = "", weights: str = "") -> int:
    path = demo / "videos" / video if video else min((demo / "videos").iterdir())
    places = ["--weights", weights or f"{BLIP2}={demo / 'tiny-blip2'}", "--store", str(store)]
    return main(["ask", str(path), question, *more, *SMALL, *places])


@pytest.fixture(scope="module")
def ask_store(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one answered question; tests add further ones."""
    store = tmp_path_factory.mktemp("ask")
    assert ask(demo, store, "What colour is it?", "--option", "red", "--option", "blue", "--option", "green") == 0
    return store


def stages(store: Path) -> list[str]:
    return sorted(id.split("-v")[0] for id in Store(store))


def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_second_question_about_a_video_reuses_its_frames_and_features(
    demo: Path, ask_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert ask(demo, ask_store, "Where does it go?", "--option", "left", "--option", "up", "--json") == 0
    reply = answer(capsys)
    assert [option["text"] for option in reply["options"]] == ["left", "up"]
    assert sum(option["probability"] for option in reply["options"]) == pytest.approx(1)
    best = max(reply["options"], key=lambda option: option["probability"])
    assert best["chosen"] and reply["answer"] == best["text"] and reply["probability"] == best["probability"]
    assert len(reply["frames"]) == 8 and len(reply["keyframes"]) == 4
    scores = sorted(frame["logit_yes"] for frame in reply["frames"])
    assert sorted(frame["logit_yes"] for frame in reply["keyframes"]) == scores[4:]
    built = stages(ask_store)
    assert built.count("sample_frames") == built.count("extract_features") == 1
    assert built.count("score_frames") == built.count("answer_questions") > 1


def test_a_question_whose_frames_are_scored_by_the_prompt_for_moments_is_answered(
    demo: Path, ask_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    prompt = ("--set", "score_frames.prompt=moment", "--json")
    assert ask(demo, ask_store, "Where does it go?", "--option", "left", "--option", "up", *prompt) == 0
    assert answer(capsys)["answer"] in ("left", "up")


def test_a_question_without_options_is_answered_in_words(
    demo: Path, ask_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ("--set", "generate_answers.max_tokens=5", "--json")
    assert ask(demo, ask_store, "What happens?", *words) == 0
    reply = answer(capsys)
    assert reply["options"] == [] and 0 < reply["probability"] <= 1 and "</s>" not in reply["answer"]
    assert stages(ask_store).count("generate_answers") == 1
    assert ask(demo, ask_store, "What happens?", *words[:2]) == 0
    text = capsys.readouterr().out
    assert f"answer: {reply['answer']}".strip() in text and "keyframes, 4 of 8 sampled frames" in text


def test_the_page_shows_the_strip_and_escapes_all_text(demo: Path, ask_store: Path, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    page = tmp_path / "out" / "answer.html"
    assert ask(demo, ask_store, evil, "--option", evil, "--option", "{{ 1 + 1 }}", "-o", str(page)) == 0
    content = page.read_text()
    assert "<script" not in content and "&lt;script&gt;" in content and "{{ 1 + 1 }}" in content
    assert content.count("data:image/jpeg;base64,/9j/") == 8 and content.count('class="keyframe"') == 4
    assert not re.search(r"(src|href)=\"(?!data:)", content)


def test_opening_without_a_browser_prints_the_page_address(
    demo: Path, ask_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    page = tmp_path / "answer.html"
    options = ("--option", "red", "--option", "blue", "--option", "green")
    assert ask(demo, ask_store, "What colour is it?", *options, "--open", "--json", "-o", str(page)) == 0
    assert f"cannot open a browser; the page is at {page.as_uri()}" in capsys.readouterr().err


def test_a_repeated_option_is_refused(demo: Path, ask_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(demo, ask_store, "What colour is it?", "--option", "red", "--option", "red") == 1
    assert "this cannot be asked: the option 'red' is given more than once" in capsys.readouterr().err


def test_a_folder_without_images_is_refused_before_anything_is_read(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.txt").write_text("still written to")
    assert ask(demo, tmp_path / "store", "Why?", video=str(tmp_path)) == 1
    assert "is a folder without images" in capsys.readouterr().err
    assert not (tmp_path / "store" / "artifacts").exists()


def test_the_page_shows_a_rotated_video_upright(demo: Path, ask_store: Path, tmp_path: Path) -> None:
    rotated, page = rotate(make_video(tmp_path / "turned.mp4", size=(96, 48)), 90), tmp_path / "answer.html"
    assert ask(demo, ask_store, "What?", "--option", "a", "--option", "b", "-o", str(page), video=str(rotated)) == 0
    assert "aspect-ratio: 48 / 96;" in page.read_text()


def test_missing_weights_are_named_with_source_and_size(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    video = str(min((demo / "videos").iterdir()))
    assert main(["ask", video, "What?", "--store", str(tmp_path / "store")]) == 1
    message = capsys.readouterr().err
    for part in (BLIP2, "https://huggingface.co/", "16 GB", "--download", "--weights demo", "sevila.toml"):
        assert part in message
    assert main(["ask", video, "What?", "--store", str(tmp_path / "store"), "--weights", "demo"]) == 1
    message = capsys.readouterr().err
    assert "the demo's backbone is not in" in message and "`sevila demo` trains it" in message
    assert not list(Store(tmp_path / "store"))


def test_an_unreadable_video_gives_a_reason_instead_of_an_answer(
    demo: Path, ask_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = next(path.name for path in (demo / "videos").iterdir() if not path.stat().st_size)
    capsys.readouterr()
    assert ask(demo, ask_store, "What?", "--option", "a", "--option", "b", video=empty) == 1
    assert "no answer: " in capsys.readouterr().out
    assert main(["ask", "nowhere.mp4", "What?", "--store", str(ask_store)]) == 1
    assert "nowhere.mp4: there is no such video" in capsys.readouterr().err
    assert ask(demo, ask_store, "What?", "--option", "a") == 1
    assert "this cannot be asked: 1 options, 2 to 26 were wanted" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:4,\nother.mp4\n"])
@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_an_uploaded_playlist_is_refused_and_its_files_are_not_read(
    demo: Path, ask_store: Path, tmp_path: Path, content: str, suffix: str
) -> None:
    make_video(tmp_path / "other.mp4")
    upload = tmp_path / f"walk.{suffix}"
    upload.write_text(content.replace("other.mp4", str(tmp_path / "other.mp4")))
    weights, settings = [f"{BLIP2}={demo / 'tiny-blip2'}"], SMALL[1:4:2]
    context = RunContext.of(Store(ask_store), vars(ExecutionOptions()) | {"device": "cpu"})

    def answer(video: Path, question: str, options: Sequence[str]) -> str:
        run = ask_video(AskRequest(video, question, options, weights, settings=settings), context)
        return answer_page(run, answer_of(run))

    page = answered_upload(answer, tmp_path, str(upload), "What?", "red\nblue")
    assert "a playlist" in page and "data:image/jpeg" not in page


def test_weights_of_the_store_answer_and_those_of_another_kind_are_refused(
    demo: Path, ask_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    id = artifact(ask_store, "answerer_weights").id
    choice = ("--option", "red", "--option", "blue")
    capsys.readouterr()
    assert ask(demo, ask_store, "What?", *choice, "--answerer", id, "--json") == 0
    assert "answerer: init_answerer" in answer(capsys)["answered_by"]
    assert ask(demo, ask_store, "What?", *choice, "--localizer", id) == 1
    assert "holds answerer_weights; expected localizer_weights" in capsys.readouterr().err


def test_resident_models_load_once_and_give_the_same_answers(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    monkeypatch.setattr(loaded_models, "device_memory", lambda device: DeviceMemory(1 << 40, 1 << 40))
    for name in ("load_vision_encoder", "load_language", "load_saved_visual_prompt"):
        load = getattr(checkpoint, name)
        monkeypatch.setattr(checkpoint, name, lambda *of, name=name, load=load: (loads.append(name), load(*of))[1])

    def answers(store: str) -> list[dict[str, Any]]:
        context = RunContext.of(Store(tmp_path / store), vars(ExecutionOptions()) | {"device": "cpu"})
        requests = [
            AskRequest(video, "What?", ["red", "blue"], [f"{BLIP2}={demo / 'tiny-blip2'}"], settings=SMALL[1:4:2])
            for video in sorted(path for path in (demo / "videos").iterdir() if path.stat().st_size)[:2]
        ]
        return [answer_of(ask_video(request, context)).as_dict() for request in requests]

    alone = answers("alone")
    # The Localizer and the Answerer of one question share one language model and one Q-Former: BLIP-2's own.
    assert sorted(loads) == ["load_language"] * 2 + ["load_saved_visual_prompt"] * 2 + ["load_vision_encoder"] * 2
    loads.clear()
    with keeping_models(Models()):
        assert answers("kept") == alone
    assert sorted(loads) == ["load_language", "load_saved_visual_prompt", "load_vision_encoder"]


def test_serving_without_gradio_names_the_extra_and_asking_needs_none(
    demo: Path, ask_store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    assert main(["ask", "--serve", "--store", str(ask_store)]) == 1
    assert 'pip install "sevila-pipeline[serve]"' in capsys.readouterr().err
    assert ask(demo, ask_store, "What?", "--option", "red", "--option", "blue") == 0


def test_small_percentages_are_not_printed_as_zero() -> None:
    assert list(map(percent_text, (0.0, 1e-7, 0.0006, 0.731))) == ["0.0%", "<0.1%", "0.1%", "73.1%"]
