"""Missing and wrong places of annotations, videos and weights, and the order in which they are reported."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest

from cache.digests import DigestCache
from cache.errors import MissingSourceError
from cache.store import Store
from cli import main
from pipeline.engine.sources import Sources
from sevila.models import Localizer
from tests.small_world import SMALL
from tests.stages.runs import arguments, records, sevila

KINDS = ("annotations", "videos", "weights")


@pytest.fixture(autouse=True)
def no_places_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind in ("ANNOTATIONS", "VIDEOS", "WEIGHTS", "CONFIG"):
        monkeypatch.delenv(f"SEVILA_{kind}", raising=False)
    monkeypatch.chdir(tmp_path)


def without(kind: str, command: str, demo: Path, store: Path, *more: str) -> list[str]:
    """The arguments of a command without the place of one kind."""
    words = arguments(command, demo, store, *more)
    where = words.index(f"--{kind}")
    return words[:where] + words[where + 2 :]


@pytest.mark.parametrize("kind", KINDS)
def test_run_requires_every_place_even_if_the_store_has_all_artifacts(
    store: Path, demo: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*without(kind, "run", demo, store), "-q"]) == 1
    printed = capsys.readouterr()
    assert f"no path is given for the {kind} " in printed.err and f"--{kind} " in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("kind", ["annotations", "weights"])
def test_stage_requires_annotations_and_weights(
    store: Path, demo: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(without(kind, "stage", demo, store, "answer_questions")) == 1
    assert f"no path is given for the {kind} " in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_plan_uses_places_remembered_by_the_store_and_logs_them(
    store: Path, demo: Path, kind: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*without(kind, "plan", demo, store), "-q"]) == 0
    assert "10 exists, 0 build, 0 blocked" in capsys.readouterr().out
    assert f"{kind} " in caplog.text and f"not on this machine; taken to be {kind}-" in caplog.text


def test_a_wrong_place_is_not_remembered(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert sevila("run", demo, store, "--weights", f"tiny-blip2={demo / 'questions.csv'}") == 1
    capsys.readouterr()
    assert main(without("weights", "plan", demo, store)) == 0
    assert "no path is given for the weights" in capsys.readouterr().out
    remembered = Sources(Store(store).digests, {}, remembered=KINDS)
    assert remembered.weights("tiny-blip2").id is None


def test_a_folder_without_the_videos_is_an_error_before_weights_are_read(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    gone = ("--weights", f"tiny-blip2={tmp_path / 'gone'}")
    assert sevila("run", demo, tmp_path / "store", "--videos", str(tmp_path / "empty"), *gone) == 1
    printed = capsys.readouterr()
    assert "empty: found none of the 10 videos" in printed.err and "accuracy" not in printed.out
    assert {record.stage for record in records(tmp_path / "store").values()} == {"list_questions"}


def test_stage_and_plan_report_a_folder_without_the_videos(
    store: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert sevila("stage", demo, store, "sample_frames", "--videos", str(tmp_path / "empty")) == 1
    assert "none of the 10 videos" in capsys.readouterr().err
    assert sevila("plan", demo, store, "--videos", str(tmp_path / "empty")) == 0
    assert "none of the 10 videos" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["videos", "weights"])
def test_stage_reports_a_wrong_place_before_weights_are_read(
    store: Path,
    demo: Path,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read: list[str] = []
    weights = Sources.weights
    monkeypatch.setattr(Sources, "weights", lambda self, name: (read.append(name), weights(self, name))[1])
    wrong = ["--videos", f"{tmp_path / 'gone'}"]
    if kind == "weights":
        wrong = ["--weights", f"second={tmp_path / 'gone'}", "--set", "init_answerer.weights=second"]
    assert sevila("stage", demo, store, "answer_questions", *wrong) == 1
    assert f"should lie at {tmp_path / 'gone'}, but nothing is there" in capsys.readouterr().err
    assert not read


def test_weights_demo_is_refused_outside_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "plain", "--weights", "demo", "--store", str(tmp_path / "store")]) == 0
    assert "only `sevila ask` takes the word demo" in capsys.readouterr().out


def test_a_stage_runs_without_places_that_only_other_stages_need(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sevila.toml").write_text('[weights]\ntiny-blip2 = "gone"\n')
    monkeypatch.setenv("SEVILA_CONFIG", str(tmp_path / "sevila.toml"))
    for name in ("list_questions", "sample_frames"):
        assert main(without("weights", "stage", demo, tmp_path / "store", name)) == 0
    assert main([*without("weights", "plan", demo, tmp_path / "store"), "--weights", f"{tmp_path / 'gone'}"]) == 0


@pytest.mark.parametrize("wrong", ["annotations", "videos"])
@pytest.mark.parametrize("chain", ["forward", "full"])
def test_weights_are_not_downloaded_while_a_place_is_wrong(
    demo: Path,
    tmp_path: Path,
    wrong: str,
    chain: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked for weights")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    text = (demo / "questions.csv").read_text().splitlines()
    rows = [f"{line},{'train' if number % 2 else 'test'}" for number, line in enumerate(text[1:])]
    (tmp_path / "questions.csv").write_text("\n".join([f"{text[0]},split", *rows, ""]))
    places = {"annotations": tmp_path / "questions.csv", "videos": demo / "videos"}
    places[wrong] = tmp_path / "gone"
    given = [word for kind, place in places.items() for word in (f"--{kind}", str(place))]
    settings = ["--set", f"chain.kind={chain}", "--set", "list_questions.split=test"]
    assert main(["run", "plain", *given, *settings, "--download", "--store", str(tmp_path / "store")]) == 1
    assert f"the {wrong} 'plain' should lie at {tmp_path / 'gone'}, but nothing is there" in capsys.readouterr().err


def test_weights_are_downloaded_only_with_the_download_option_and_for_a_build(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []

    def hub(name: str, local_files_only: bool, **_: object) -> str:
        if local_files_only and name not in fetched:
            raise FileNotFoundError(name)
        fetched.append(name)
        return str(demo / "tiny-blip2")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    store, hub_id = tmp_path / "store", ("--set", "import_backbone.weights=owner/model")
    commands = [("run",), ("stage", "import_backbone"), ("plan", "--download")]
    for command, *more in commands:
        main(without("weights", command, demo, store, *more, *hub_id))
        out, error = capsys.readouterr()
        assert "the weights 'owner/model' are not on this machine" in out + error
        assert "--download to fetch them from the Hugging Face Hub" in " ".join((out + error).split())
    with pytest.raises(MissingSourceError, match="--download to fetch them"):
        Localizer.load("owner/model")
    assert not fetched and {record.stage for record in records(store).values()} == {"list_questions"}
    assert main(without("weights", "stage", demo, store, "import_backbone", *hub_id, "--download")) == 0
    assert fetched == ["owner/model"]
    fetched.clear()
    Localizer.load("owner/model", device="cpu", download=True)
    assert fetched == ["owner/model"]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--weights=blip2={}", "--weights tiny-blip2=PATH"),
        ("--videos=nextqa={}", "--videos plain=PATH"),
        ("--annotations=plane={}", "--annotations plain=PATH"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan", "stage"])
def test_a_place_for_an_unused_name_is_an_error_that_lists_the_used_names(
    demo: Path, tmp_path: Path, command: str, option: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["score_frames"] if command == "stage" else []
    assert sevila(command, demo, tmp_path / "store", *more, option.format(tmp_path)) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "tiny-blip2="])
def test_a_place_for_weights_that_the_chain_trains_logs_a_warning(
    demo: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*without("weights", "plan", demo, tmp_path / "store"), "--set", "chain.backbone=trained"]
    assert main([*words, "--weights", f"{name}{tmp_path}"]) == 0
    assert f"--weights {name}{tmp_path}: " in caplog.text and "not used here; used are none" in caplog.text


def test_a_place_for_an_unknown_data_set_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "--annotations", f"nextq={tmp_path}"]) == 1
    assert "--annotations nextqa=PATH" in capsys.readouterr().err


def test_weights_replaced_during_their_import_are_not_published(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Path(shutil.copytree(demo / "tiny-blip2", tmp_path / "one"))
    model = weights / "model.safetensors"

    class Replacing(DigestCache):
        def save(self) -> None:  # after digesting, before loading
            super().save()
            if any(str(model) == name for name in self._known["files"]):
                model.write_bytes(model.read_bytes())

    monkeypatch.setattr("cache.store.DigestCache", Replacing)
    assert sevila("run", demo, tmp_path / "store", "--weights", f"tiny-blip2={weights}") == 1
    assert "were replaced while they were read; run again" in capsys.readouterr().err
    assert {record.stage for record in records(tmp_path / "store").values()} == {"list_questions"}


def test_annotations_replaced_before_they_are_read_are_not_published(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = Path(shutil.copy(demo / "questions.csv", tmp_path))
    other = questions.read_text().replace("What colour", "Which colour")

    class Replacing(DigestCache):
        def save(self) -> None:
            super().save()
            questions.write_text(other)

    monkeypatch.setattr("cache.store.DigestCache", Replacing)
    assert sevila("run", demo, tmp_path / "store", "--annotations", str(questions)) == 1
    assert "questions.csv: replaced between being identified and being read; run again" in capsys.readouterr().err
    assert records(tmp_path / "store") == {}
    monkeypatch.undo()
    assert sevila("stage", demo, tmp_path / "store", "list_questions", "--annotations", str(questions)) == 0


def test_stage_without_places_names_the_missing_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage", "sample_frames", SMALL, "--store", str(tmp_path)]) == 1
    assert "--annotations plain=PATH" in capsys.readouterr().err


def test_a_file_in_place_of_a_weights_folder_is_an_error(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = without("weights", "run", demo, tmp_path)
    assert main([*words, "--weights", str(demo / "questions.csv")]) == 1
    assert "questions.csv: is a file; expected the directory of a BLIP-2" in capsys.readouterr().err
