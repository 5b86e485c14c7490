"""Data sets are added as a file in the folder or as an entry point of a package."""

import json
import sys
from pathlib import Path

import pytest

import pipeline.datasets
from cache.errors import RecipeError, SevilaError
from cache.store import Store
from cli import main
from pipeline.datasets.registry import adapter_named, adapter_names, read_split
from stages.list_questions import Questions
from tests.conftest import Package

FILE = """
import json
from pipeline.datasets.adapter import About, SplitFile, find_files
from pipeline.datasets.question import Annotations, Question, Video
from pipeline.datasets.readers.text_file import read_text

name = {name!r}
about = About("Theirs", {{"val": (SplitFile("val.json", 1),)}}, "{{video}}.mp4", "nowhere", "none", "multiple_choice")

def read(path, split):
    (file,) = find_files(about, path, split)
    row = json.loads(read_text(file))
    question = Question("q", row["video"], row["question"], tuple(row["options"]), 1, "why", None, None)
    return Annotations((question,), (Video(row["video"], row["video"] + ".mp4"),), ())

def group(question_type):
    return ""
"""


@pytest.mark.parametrize("name", adapter_names())
def test_an_adapter_has_its_registered_name(name: str) -> None:
    assert adapter_named(name).name == name


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"'next-qa' \(did you mean 'nextqa'\?\); there are: egoschema, how2qa, "):
        adapter_named("next-qa")
    with pytest.raises(RecipeError, match="'zzz'; there are"):
        adapter_named("zzz")


def test_a_file_in_the_folder_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours.py").write_text(FILE.format(name="ours"))
    monkeypatch.setattr(pipeline.datasets, "__path__", [*pipeline.datasets.__path__, str(tmp_path)])
    try:
        assert "ours" in adapter_names() and adapter_named("ours").about.title == "Theirs"
    finally:
        sys.modules.pop("pipeline.datasets.ours", None)


def test_a_package_adds_a_data_set_by_an_entry_point(
    package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package("theirs", FILE.format(name="theirs"), group="sevila.datasets")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "val.json").write_text('{"video": "a", "question": "Why?", "options": ["so", "thus"]}')
    (tmp_path / "data" / "a.mp4").write_bytes(b"")
    data, store = tmp_path / "data", tmp_path / "store"
    paths = ["--annotations", f"theirs={data}", "--videos", f"theirs={data}", "--store", str(store)]
    settings = ["--set=list_questions.dataset=theirs", "--set=list_questions.split=val"]
    assert main(["stage", "list_questions", "plain", *settings, *paths]) == 0
    (id,) = [id for id in Store(store) if id.startswith("list_questions")]
    assert [question.options for question in Questions(Store(store), id).questions()] == [("so", "thus")]
    capsys.readouterr()
    assert main(["datasets", "theirs", *paths]) == 0
    assert "val.json: 1 question, 1 with a known answer" in capsys.readouterr().out


def test_a_data_set_that_cannot_be_loaded_or_is_incomplete_is_refused_by_name(package: Package) -> None:
    package("broken", "import no_such_module_anywhere\n", group="sevila.datasets")
    assert "broken" in adapter_names() and adapter_named("plain").name == "plain"
    with pytest.raises(SevilaError, match=r"data set 'broken' of theirs cannot be loaded: .*no_such_module_anywhere"):
        adapter_named("broken")
    package("empty", "name = 'empty'\n", "theirs_too", group="sevila.datasets")
    with pytest.raises(SevilaError, match=r"'empty' of theirs_too is the module \w+ without about, read; expected"):
        adapter_named("empty")


READING = """
from pipeline.datasets.adapter import About
name = "odd"
about = About(title="Odd", splits={}, videos="", published="", licence="", prompt="multiple_choice")
def read(path, split):
    raise KeyError("boom")
"""


def test_an_exception_of_a_data_set_is_one_error_with_its_location(package: Package, tmp_path: Path) -> None:
    package("odd", READING, group="sevila.datasets")
    with pytest.raises(
        SevilaError, match=r"data set 'odd' cannot read .*: KeyError\('boom'\) \(theirs_datasets.py, line 6\)"
    ):
        read_split(adapter_named("odd"), tmp_path, "val")


def test_a_data_set_with_other_parameters_of_read_is_refused(package: Package) -> None:
    package("odd", READING.replace("path, split", "path"), group="sevila.datasets")
    with pytest.raises(SevilaError, match=r"whose read cannot be called with \(path, split\)"):
        adapter_named("odd")


def test_a_data_set_that_cannot_be_loaded_does_not_hide_others(
    package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    package("broken", "import no_such_module_anywhere\n", group="sevila.datasets")
    assert main(["datasets"]) == 0
    text = capsys.readouterr().out
    assert "nextqa: NExT-QA" in text and "broken: data set 'broken' of theirs cannot be loaded" in text
    assert main(["datasets", "--json"]) == 0
    problems = {entry["dataset"]: entry.get("problem", "") for entry in json.loads(capsys.readouterr().out)}
    assert "cannot be loaded" in problems["broken"] and problems["nextqa"] == ""
