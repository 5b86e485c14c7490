"""The report of a run: its content, when it is written, and its behaviour in a browser."""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from cache.errors import StoreError
from cache.names import named_run, pinning
from cache.printable import is_unprintable, printable
from cache.store import Store
from cli import main
from pipeline.metrics.accuracy import Answered
from pipeline.metrics.calibration import calibration_bins, expected_calibration_error, option_probabilities
from pipeline.selection.keyframes import ChosenFrames
from pipeline.video.thumbnails import shape_or_coded, shown_shape, thumbnail_size
from reports.page import examples
from reports.page.numbers import published_accuracies
from stages.answer_questions import Answers
from stages.list_questions import Questions
from stages.make_thumbnails import Thumbnails
from stages.select_keyframes import Keyframes
from tests.browser import WatchedPage, chromium
from tests.stages.runs import UNIFORM, artifact, sevila
from tests.videos import make_image_folder, make_video, rotate
from workers.pages import show_summary

HOSTILE = (
    """</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'"&{{ 7 * 7 }}"""
    "\u2028\x1b[31m\u202e end"
)
HOSTILE_ID, HOSTILE_TYPE = "q '\"</script> & #1", "<b>kind</b></script>\x1b\u202e"


def with_hostile_texts(demo: Path, folder: Path) -> Path:
    """The small world with known moments and hostile text in an id, a question, an option and a type."""
    folder.mkdir()
    for name in ("videos", "tiny-blip2"):
        (folder / name).symlink_to(demo / name)
    with (demo / "questions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    questions = []
    for number, row in enumerate(rows):
        options = [row[f"a{n}"] for n in range(4) if row[f"a{n}"]]
        about = {"question_id": f"q{number}", "video": row["video"], "question": row["question"], "type": row["type"]}
        questions.append(about | {"options": options, "answer": row["answer"], "moments": [[1.0, 2.5]]})
    questions[0] |= {"question_id": HOSTILE_ID, "question": HOSTILE, "type": HOSTILE_TYPE}
    questions[0]["options"] = [*questions[0]["options"][:-1], HOSTILE]
    questions[0]["answer"] = HOSTILE
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(question)}\n" for question in questions))
    return folder


@pytest.fixture(scope="module")
def two_runs(demo: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the runs `localizer` and `uniform` over hostile questions; tests must not change it."""
    folder = tmp_path_factory.mktemp("report")
    world, store = with_hostile_texts(demo, folder / "world"), Path(shutil.copytree(finished, folder / "store"))
    annotations = ("--annotations", f"{world / 'questions.jsonl'}")
    assert sevila("run", world, store, *annotations, "--name", "localizer", "--report") == 0
    assert sevila("run", world, store, *annotations, "--name", "uniform", *UNIFORM) == 0
    return store


@pytest.fixture(scope="module")
def folder(two_runs: Path, demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of both runs side by side, in many small pages, in a folder outside the store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "PAGE_BYTES", 4000)
        patch.setattr(examples, "INDEX_BYTES", 1500)
        folder = tmp_path_factory.mktemp("sent") / "to a colleague"
        assert main(["report", "localizer", "uniform", "--store", str(two_runs), "-o", str(folder)]) == 0
    assert len(list((folder / "data").glob("page-*.js"))) > 2 and len(list((folder / "data").glob("index-*.js"))) > 1
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def answers_of(store: Path, name: str) -> dict[str, tuple[int | None, int | None]]:
    """The option that a run chose and the right one, by question."""
    ids = {pin.stage: pin.id for pin in named_run(Store(store), name).artifacts}
    answers = Answers(Store(store), ids["answer_questions"]).typed_rows("answers", Answered)
    right = {question.question_id: question.answer_index for question in questions_of(store)}
    return {row.question_id: (row.prediction, right[row.question_id]) for row in answers}


def questions_of(store: Path) -> list[Any]:
    ids = {pin.stage: pin.id for pin in named_run(Store(store), "localizer").artifacts}
    return Questions(Store(store), ids["list_questions"]).questions()


def test_the_page_shows_the_mean_number_of_keyframes_when_videos_have_fewer_than_k(
    demo: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(finished, tmp_path / "store"))
    folder = tmp_path / "page"
    assert sevila("run", demo, store, "--set", "select_keyframes.k=100", "--name", "all", "--no-report") == 0
    assert main(["report", "all", "--store", str(store), "-o", str(folder)]) == 0
    rows = artifact(store, "keyframes").rows("keyframes")
    n_chosen = [len(row["positions"]) for row in rows if row["positions"]]
    mean = sum(n_chosen) / len(n_chosen)
    assert f"at most 100 per question, {mean:.1f} on average" in (folder / "index.html").read_text()


def n_results(watched: WatchedPage) -> int:
    watched.page.wait_for_timeout(250)  # the search is delayed until typing ends
    return int(watched.texts("#count")[0].split()[0])


def test_the_page_renders_without_errors_or_external_requests(folder: Path, browser: Any) -> None:
    watched = WatchedPage(browser, folder)
    page = watched.page
    assert "gives the right answer to" in watched.texts(".sentence")[0]
    assert page.locator("svg.plot").count() >= 4 and page.locator("#detail .cell img").count() == 8
    assert page.evaluate("window.scrollY") == 0, "the page begins at its top"
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
        page.evaluate("document.documentElement.removeAttribute('data-theme'); localStorage.clear()")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("fetch('https://example.org').then(() => 'reached', () => 'refused')") == "refused"
    assert [url for url in watched.requests if not url.startswith((folder.as_uri(), "data:", "about:"))] == []
    assert all("example.org" in complaint for complaint in watched.complaints)
    missing = page.evaluate("[...document.images].filter((image) => !image.complete || !image.naturalWidth).length")
    assert missing == 0 and "undefined" not in page.inner_text("body") and "NaN" not in page.inner_text("body")


def test_filters_show_only_matching_questions(folder: Path, browser: Any, two_runs: Path) -> None:
    watched = WatchedPage(browser, folder)
    page = watched.page
    a, b = answers_of(two_runs, "localizer"), answers_of(two_runs, "uniform")
    questions = questions_of(two_runs)
    assert n_results(watched) == len(a) == 30
    expected = {
        "right": sum(chosen == right for chosen, right in a.values()),
        "wrong": sum(chosen not in (None, right) for chosen, right in a.values()),
        "none": sum(chosen is None for chosen, _ in a.values()),
    }
    for result, n_questions in expected.items():
        page.select_option("#by-result", result)
        assert n_results(watched) == n_questions
    page.click("#clear")
    page.select_option("#by-change", "changed")
    assert n_results(watched) == sum(a[id][0] != b[id][0] for id in a)
    page.select_option("#by-change", "first")
    assert n_results(watched) == sum(a[id][0] == a[id][1] and b[id][0] != b[id][1] for id in a)
    page.click("#clear")
    page.select_option("#by-type", "motion")
    assert n_results(watched) == sum(question.question_type == "motion" for question in questions)
    page.click("#clear")
    page.fill("#by-video", questions[5].video_id)
    assert n_results(watched) == sum(question.video_id == questions[5].video_id for question in questions)
    page.fill("#by-text", questions[5].question.upper())
    assert n_results(watched) == 1 and questions[5].question in watched.texts("#results a")[0]
    page.reload()  # the address holds the filters
    page.wait_for_selector('#examples[aria-busy="false"]')
    assert n_results(watched) == 1 and page.input_value("#by-video") == questions[5].video_id
    page.fill("#by-text", "no such words")
    assert n_results(watched) == 0 and "No question matches" in watched.texts("#detail")[0]
    assert watched.complaints == []


def test_a_deep_link_opens_a_question_with_both_runs_answers(folder: Path, browser: Any, two_runs: Path) -> None:
    a, b = answers_of(two_runs, "localizer"), answers_of(two_runs, "uniform")
    question = next(q for q in questions_of(two_runs)[6:] if a[q.question_id][0] is not None)
    watched = WatchedPage(browser, folder, f"#question={quote(question.question_id)}")
    assert watched.texts("#detail h3") == [question.question]
    legend = watched.texts("#detail .legend li")
    assert legend[0].startswith("A") and "localizer: " in legend[0] and "uniform: uniform" in legend[1]
    for letter, answers in (("A", a), ("B", b)):
        rows = watched.page.locator(f"#detail .options tbody tr:has(td.picked.{letter}) .left").all_inner_texts()
        assert [row.replace("right answer", "").strip() for row in rows] == [
            question.options[answers[question.question_id][0]]
        ]
    watched.open("#question=nowhere")
    assert watched.texts("#detail") == ["There is no question nowhere in this report."]
    assert watched.complaints == []


def test_alt_texts_of_a_strip_name_keyframes_uniform_frames_and_true_moments(
    folder: Path, browser: Any, two_runs: Path
) -> None:
    ids = {pin.stage: pin.id for pin in named_run(Store(two_runs), "localizer").artifacts}
    rows = Keyframes(Store(two_runs), ids["select_keyframes"]).typed_rows("keyframes", ChosenFrames)
    chosen = {row.question_id: row.positions for row in rows}
    watched = WatchedPage(browser, folder, "#question=q4")
    words = [image.get_attribute("alt") for image in watched.page.locator("#detail .cell img").all()]
    assert len(words) == 8 and words[0].startswith("Frame 1 of 8, at ") and "score of A" in words[0]
    assert [at for at, text in enumerate(words) if "keyframe of A" in text] == list(chosen["q4"])
    uniform = [at for at, text in enumerate(words) if "evenly spread keyframe" in text]
    assert uniform == [1, 3, 5, 7] == [at for at, text in enumerate(words) if "keyframe of B" in text]
    true = [text for text in words if "in a true moment" in text]
    assert true and len(true) == watched.page.locator("#detail .cell.true").count() < 8
    assert watched.page.locator("#detail .cell.by-A").count() == len(chosen["q4"])


def test_runs_with_different_sampling_have_separate_strips(
    finished: Path, demo: Path, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run samples 4 frames where the first samples 8, and one question has another option."""
    store, other = Path(shutil.copytree(finished, tmp_path / "store")), tmp_path / "other.csv"
    with (demo / "questions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    read = {row.question_id for row in artifact(store, "keyframes").typed_rows("keyframes", ChosenFrames) if row.rows}
    questions = [question for question in artifact(store, "questions").questions() if question.question_id in read]
    ids, about = [question.question_id for question in questions], (questions[0].video_id, questions[0].question)
    for row in rows:
        if (row["video"], row["question"]) == about:
            row |= {name: f"{text} indeed" for name, text in row.items() if text == row["a0"]}
    with other.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert sevila("run", demo, store, "--name", "eight") == 0
    settings = ("--set", "sample_frames.frames=4", "--set", "select_keyframes.k=2")
    assert sevila("run", demo, store, "--annotations", str(other), "--name", "four", *settings) == 0
    monkeypatch.setattr(examples, "single_frame_answers", lambda *_: dict.fromkeys(ids, b"[0,0,0,0,0,0,0,0]"))
    assert main(["report", "eight", "four", "--store", str(store), "-o", str(tmp_path / "out")]) == 0
    watched, scored = WatchedPage(browser, tmp_path / "out"), []
    for question_id in (ids[0], ids[-1]):
        watched.open(f"#question={quote(question_id)}")
        strips = [
            [str(cell.get_attribute("title")) for cell in strip.locator(".cell").all()]
            for strip in watched.page.locator("#detail .strip").all()
        ]
        assert [sum("answer from this frame alone" in words for words in strip) for strip in strips] == [8, 0]
        assert [sum("evenly spread" in words for words in strip) for strip in strips] == [4, 2]
        scored.append([sum("score of" in words for words in strip) for strip in strips])
    assert scored == [[8, 0], [8, 4]] and watched.complaints == []


def test_a_long_clip_shows_some_frames_and_every_keyframe(
    two_runs: Path, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "MAX_CELLS", 5)
    monkeypatch.setattr(examples, "EVEN_CELLS", 2)
    assert main(["report", "localizer", "--store", str(two_runs), "-o", str(tmp_path / "out")]) == 0
    ids = {pin.stage: pin.id for pin in named_run(Store(two_runs), "localizer").artifacts}
    rows = Keyframes(Store(two_runs), ids["select_keyframes"]).typed_rows("keyframes", ChosenFrames)
    expected = {row.question_id: sorted({2, 6, 1, 3, 5, 7, *row.positions}) for row in rows if row.positions}
    question_id = min(expected, key=lambda id: len(expected[id]))
    watched = WatchedPage(browser, tmp_path / "out", f"#question={quote(question_id)}")
    words = [str(image.get_attribute("alt")) for image in watched.page.locator("#detail .cell img").all()]
    assert [text.split(" of 8")[0] for text in words] == [f"Frame {position + 1}" for position in expected[question_id]]
    assert sum("; keyframe of A" in text for text in words) == 4 == sum("evenly spread" in text for text in words)
    assert watched.page.locator("#detail .blank").count() == 0 and watched.complaints == []


def test_the_page_escapes_control_characters(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert r"kind&lt;/b&gt;&lt;/script&gt;\x1b\u202e</option>" in text
    assert not {sign for sign in text if is_unprintable(sign)} - {"\n"}


def test_hostile_texts_are_shown_and_not_executed(folder: Path, browser: Any) -> None:
    watched = WatchedPage(browser, folder, f"#question={quote(HOSTILE_ID)}")
    page = watched.page
    assert page.text_content("#detail h3") == printable(HOSTILE)
    assert HOSTILE_ID in page.inner_text("#detail") and printable(HOSTILE_TYPE) in page.inner_text("#detail")
    assert "window.hacked" in page.inner_text("#detail .options") and "49" not in page.inner_text(
        "#detail .options .left"
    )
    assert printable(HOSTILE_TYPE) in watched.texts("#by-type option")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#detail script, #detail b.hacked, #results script, img[src=x]").count() == 0
    assert watched.complaints == []


def test_questions_are_browsed_by_keyboard(folder: Path, browser: Any, two_runs: Path) -> None:
    watched, questions = WatchedPage(browser, folder), questions_of(two_runs)
    page = watched.page

    def shown() -> str:
        page.wait_for_timeout(150)
        return str(page.get_attribute("#detail", "data-question"))

    first = shown()
    page.keyboard.press("j")
    assert shown() != first
    page.keyboard.press("k")
    assert shown() == first
    page.keyboard.press("/")
    page.keyboard.type(questions[7].question)
    page.wait_for_timeout(250)
    page.keyboard.press("Escape")
    assert watched.texts("#results a") and watched.complaints == []
    assert page.evaluate("document.activeElement === document.body")


def test_run_prints_the_report_path_and_a_rerun_writes_nothing(
    store: Path, demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", demo, store, "--report") == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path == store / "reports" / "small" / "index.html"
    thumbnails = artifact_ids(store, "make_thumbnails")
    before = path.stat()
    assert sevila("run", demo, store, "--report") == 0
    assert main(["report", "small", "--store", str(store)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert artifact_ids(store, "make_thumbnails") == thumbnails and len(thumbnails) == 1
    assert sevila("run", demo, store, "--report", *UNIFORM) == 0
    assert path.stat().st_ino != before.st_ino and "uniform" in path.read_text()
    assert artifact_ids(store, "make_thumbnails") == thumbnails


def artifact_ids(store: Path, stage: str) -> list[str]:
    return [id for id in Store(store) if id.startswith(stage)]


def test_an_unwritable_report_is_a_warning_and_the_run_succeeds(
    store: Path, demo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (store / "reports").write_text("in the way")
    assert sevila("run", demo, store, "--report") == 0
    assert "no report: " in caplog.text


def test_report_accepts_the_id_of_any_artifact_of_a_chain(finished: Path, tmp_path: Path) -> None:
    answers = artifact(finished, "answers").record.id
    store = Path(shutil.copytree(finished, tmp_path / "store"))
    for number, id in enumerate((answers, artifact(finished, "frames").record.id)):
        assert main(["report", id, "--store", str(store), "-o", str(tmp_path / f"{number}")]) == 0
        text = (tmp_path / f"{number}" / "index.html").read_text()
        assert answers in text and "gives the right answer to" in text


def test_report_refuses_and_keeps_a_folder_with_other_files(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    store = Path(shutil.copytree(finished, tmp_path / "store"))
    assert main(["report", "small", "--store", str(store), "-o", str(tmp_path / "mine")]) == 1
    assert "is no report" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    report, beside = tmp_path / "report", tmp_path / "report.part"
    beside.mkdir()
    (beside / "half.txt").write_text("of a thesis")
    assert main(["report", "small", "--store", str(store), "-o", str(report)]) == 0
    assert (beside / "half.txt").is_file() and {path.name for path in report.parent.glob(".*")} == set()
    for name in ("thesis.txt", "data/thesis.txt"):
        (report / name).write_text("years")
        (report / "index.html").unlink(missing_ok=True)  # so that the report is written again
        assert main(["report", "small", "--store", str(store), "-o", str(report)]) == 1
        assert f"holds {name!r}, which is no part of a report" in capsys.readouterr().err
        (report / name).unlink()
    assert (
        main(["report", "small", "--store", str(store), "-o", str(report)]) == 0 and (report / "index.html").is_file()
    )
    (report / "report.json").write_text('{"key": "of another program"}')
    assert main(["report", "small", "--store", str(store), "-o", str(report)]) == 1
    assert "is no report" in capsys.readouterr().err and (report / "index.html").is_file()
    assert main(["report", "unheard", "--store", str(store)]) == 1
    assert "'unheard' is no run's name" in capsys.readouterr().err
    assert main(["report", "small", "small", "--store", str(store)]) == 1
    assert "small is given twice; expected one run, or two different ones" in capsys.readouterr().err


def test_thumbnails_have_the_displayed_shape(tmp_path: Path, two_runs: Path) -> None:
    """A phone held upright stores landscape frames with a rotation flag."""
    lying = make_video(tmp_path / "lying.mp4", size=(96, 48))
    turned = rotate(make_video(tmp_path / "turned.mp4", size=(96, 48)), 90)
    images = make_image_folder(tmp_path / "images", n_frames=1)
    assert shown_shape(lying, None, ()) == (96, 48) and shown_shape(turned, None, ()) == (48, 96)
    assert shown_shape(images, None, ())[0] > 0
    gone, note = shape_or_coded(tmp_path / "gone.mp4", None, (), (96, 48))
    assert gone == (96, 48) and "No such file" in note
    assert [thumbnail_size(shape, 96) for shape in ((96, 48), (48, 96), (960, 96))] == [(192, 96), (48, 96), (384, 38)]
    (id,) = artifact_ids(two_runs, "make_thumbnails")
    rows = list(Thumbnails(Store(two_runs), id).by_video())
    assert {(row.width, row.height, row.note, len(row.images)) for row in rows} == {(80, 80, "", 8)} and len(rows) == 8


def test_thumbnails_do_not_depend_on_the_read_batch_size(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for n_frames in (256, 3):
        monkeypatch.setattr("stages.make_thumbnails.FRAMES_READ", n_frames)
        store = Path(shutil.copytree(finished, tmp_path / f"{n_frames}"))
        assert main(["report", "small", "--store", str(store)]) == 0
        (id,) = artifact_ids(store, "make_thumbnails")
        rows.append(list(Thumbnails(Store(store), id).by_video()))
    assert rows[0] == rows[1] and len(rows[0][0].images) == 8


def test_calibration_compares_probabilities_with_the_share_of_right_answers() -> None:
    assert option_probabilities([0.0, 0.0]).tolist() == [0.5, 0.5]
    bins = calibration_bins([0.75, 0.75, 0.75, 0.75, 1.0], [True, True, True, False, False])
    assert [(each.low, each.n_answers, each.share_right) for each in bins if each.n_answers] == [
        (0.7, 4, 0.75),
        (0.9, 1, 0),
    ]
    assert expected_calibration_error(bins) == pytest.approx(0.2) and expected_calibration_error([]) is None


def test_the_report_of_a_moment_run_covers_its_queries(finished: Path, demo: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(finished, tmp_path / "store"))
    assert sevila("run", demo, store, "--set", "score_frames.prompt=moment", "--report") == 0
    text = (store / "reports" / "small" / "index.html").read_text()
    assert "the true moments of the queries are not known" in text
    assert "retrieve_moments" in text


def test_the_report_names_imported_scores(store: Path, demo: Path, tmp_path: Path) -> None:
    videos = [path.stem for path in sorted((demo / "videos").iterdir())]
    rows = [f"{video}#{number},{frame},{frame % 7}" for video in videos for number in range(3) for frame in range(48)]
    (tmp_path / "scores.csv").write_text("\n".join(["question_id,frame_index,score", *rows]))
    options = ("--set", "chain.scorer=imported", "--scores", f"{tmp_path / 'scores.csv'}", "--report")
    assert sevila("run", demo, store, *options) == 0
    text = (store / "reports" / "small" / "index.html").read_text()
    assert "reading the keyframes by imported scores, gives the right answer to" in text
    assert "score × 100" in text and "import_scores" in text


def test_published_accuracies_exist_for_paper_data_sets_only() -> None:
    assert published_accuracies("nextqa")["refined Localizer"] == {"zero-shot": 64.6, "fine-tuned": 73.8}
    assert published_accuracies("plain") == {}


def test_a_named_run_accepts_settings_of_an_added_stage(tmp_path: Path) -> None:
    with pinning(Store(tmp_path), "baseline", "small", {"evaluate": {"seed": 0}}, []):
        pass
    with pinning(
        Store(tmp_path), "baseline", "small", {"evaluate": {"seed": 0}, "make_thumbnails": {"height": 96}}, []
    ):
        pass
    with (
        pytest.raises(StoreError, match=r"evaluate\.seed: 0 -> 1"),
        pinning(Store(tmp_path), "baseline", "small", {"evaluate": {"seed": 1}}, []),
    ):
        pass


def test_the_prefect_page_links_to_the_report(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    monkeypatch.setattr("workers.pages.create_markdown_artifact", lambda page, key, about: pages.append(page))
    monkeypatch.setattr("workers.pages.source_of_page", lambda store: "Made by a run.")
    answers = artifact(finished, "answers")
    show_summary("Recipe", "sevila", [answers], [""], report=(Path("/store/reports/a b/index.html"), "some"))
    assert (
        "Made by a run. Plots, and every question" in pages[0]
        and "(file:///store/reports/a%20b/index.html)" in pages[0]
    )


def test_no_report_is_written_when_it_is_switched_off(store: Path, demo: Path) -> None:
    assert os.environ["SEVILA_REPORT"] == "no"
    assert sevila("run", demo, store) == 0 and not (store / "reports").exists()
