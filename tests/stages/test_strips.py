"""Keyframe pictures by question, for the page of a run in Prefect."""

import base64
import re
import shutil
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from cache.store import Store
from pipeline.selection.keyframes import ChosenFrames
from reports.page import run_report
from reports.page.runs import reported_run
from stages.make_thumbnails import Thumbnails
from stages.select_keyframes import Keyframes
from tests.stages.runs import artifact, sevila

PICTURE = re.compile(r"!\[keyframe at ([0-9.]+) s\]\(data:image/webp;base64,([A-Za-z0-9+/=]+)\)")


@pytest.fixture(scope="module")
def reported(demo: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run that has a report and therefore thumbnails; tests must not change it."""
    store = Path(shutil.copytree(finished, tmp_path_factory.mktemp("strips") / "store"))
    assert sevila("run", demo, store, "--report") == 0
    return store


def strips_of(store: Path) -> str:
    run = reported_run(Store(store), "small")
    (record,) = run.store.of_stage("make_thumbnails")
    return run_report.keyframe_strips(run, Thumbnails(run.store, record.id))


def test_each_question_has_a_table_of_keyframe_pictures_with_times(reported: Path) -> None:
    page = strips_of(reported)
    pictures = PICTURE.findall(page)
    assert pictures and page.count("; video ") == page.count("\n| ---") > 0
    for _, data in pictures:
        with Image.open(BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert picture.format == "WEBP" and picture.height <= 80
    chosen = artifact(reported, "keyframes")
    assert isinstance(chosen, Keyframes)
    seconds = {f"{second:.1f}" for row in chosen.typed_rows("keyframes", ChosenFrames) for second in row.seconds}
    assert {time for time, _ in pictures} <= seconds


def test_pictures_beyond_the_page_limit_are_omitted(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_characters = max(len(table) for table in strips_of(reported).split("\n\n"))
    monkeypatch.setattr(run_report, "MAX_EMBEDDED_CHARACTERS", n_characters)
    assert 0 < len(strips_of(reported)) < 2 * n_characters
    monkeypatch.setattr(run_report, "MAX_EMBEDDED_CHARACTERS", 10)
    assert strips_of(reported) == ""


def test_only_the_first_keyframes_are_shown_with_the_number_of_others(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_report, "KEYFRAMES_SHOWN", 1)
    tables = [part for part in strips_of(reported).split("\n\n") if part.startswith("|")]
    assert tables and all(len(PICTURE.findall(table)) == 1 and " more |" in table for table in tables)
