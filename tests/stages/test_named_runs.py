"""`--name` and `sevila runs` on the small world: what a name pins, and how named runs are shown and compared."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cache.errors import StoreError
from cache.names import Pin, named_run, pinning, remove_name
from cache.notes import write_note
from cache.store import Store
from cli import main
from reports.named_runs import newest_of_run
from stages.answer_questions import Answers
from tests.stages.runs import UNIFORM, edited, sevila


def read_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_name_also_pins_reused_artifacts(named: Path) -> None:
    baseline, uniform = (named_run(Store(named), name) for name in ("baseline", "uniform"))
    assert {pin.id for pin in baseline.artifacts} | {pin.id for pin in uniform.artifacts} == set(Store(named))
    stages = [pin.stage for pin in uniform.artifacts]
    assert "extract_features" in stages and stages[-1] == "evaluate" and "score_frames" not in stages
    assert (baseline.status, baseline.settings["select_keyframes"]["method"]) == ("finished", "localizer")


def test_runs_are_listed_with_their_headline_metric(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = read_json(capsys, "runs", "--store", str(named))
    assert [line["name"] for line in lines] == ["baseline", "uniform"]
    assert all(line["headline"].endswith("% right") and line["n_missing"] == 0 for line in lines)
    assert main(["runs", "--store", str(named)]) == 0
    assert "baseline  " in capsys.readouterr().out
    assert main(["runs", "show", "uniform", "--store", str(named)]) == 0
    assert "select_keyframes.method = 'uniform'" in capsys.readouterr().out


def test_the_store_option_is_accepted_before_the_subcommand(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--store", str(named), "show", "uniform"]) == 0


def test_compare_lists_differing_settings_and_compares_answers(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = read_json(capsys, "compare", "baseline", "uniform", "--store", str(named))
    assert comparison["differences"] == ["select_keyframes.method: localizer -> uniform"]
    assert [row["n_questions"] for row in comparison["rows"]] == [30]


def test_answers_accepts_a_run_name_and_cache_show_refuses_it(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    id = next(pin.id for pin in named_run(Store(named), "uniform").artifacts if pin.stage == "answer_questions")
    assert read_json(capsys, "answers", "uniform", "--store", str(named)) == read_json(
        capsys, "answers", id, "--store", str(named)
    )
    assert main(["cache", "show", "uniform", "--store", str(named)]) == 1
    assert "'uniform' is a run, not an artifact; `sevila runs show uniform`" in capsys.readouterr().err


def test_a_run_with_answers_of_several_settings_is_an_error_that_lists_their_ids(named: Path) -> None:
    store = Store(named)
    ids = [
        next(pin.id for pin in named_run(store, name).artifacts if pin.stage == "answer_questions")
        for name in ("baseline", "uniform")
    ]
    try:
        with pinning(store, "both", "small", {}, []) as pins:
            for id, setting in zip(ids, ("chosen", "uniform"), strict=True):
                pins.add(id, "answer_questions", setting)
        with pytest.raises(StoreError, match=rf"{ids[0]} \(chosen\), {ids[1]} \(uniform\)"):
            newest_of_run(store, "both", Answers, "answer_questions")
    finally:
        remove_name(store, "both")


def test_compare_accepts_run_names_and_artifact_ids(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compare", "baseline", "uniform", "--store", str(named)]) == 0
    text = capsys.readouterr().out
    assert "select_keyframes.method: localizer -> uniform" in text and "questions changed" in text
    ids = [pin.id for pin in named_run(Store(named), "uniform").artifacts if pin.stage == "answer_questions"]
    mixed = read_json(capsys, "compare", "baseline", *ids, "--store", str(named))
    assert [row["n_questions"] for row in mixed["rows"]] == [30]
    by_question = read_json(capsys, "compare", "baseline", "uniform", "--bootstrap", "question", "--store", str(named))
    assert by_question["bootstrap"] == "question" and mixed["bootstrap"] == "video"
    assert main(["compare", "baseline", "nobody", "--store", str(named)]) == 1
    assert "nobody" in capsys.readouterr().err


def test_a_name_keeps_its_settings_until_it_is_replaced(
    named: Path, demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(named, tmp_path / "store"))
    assert sevila("run", demo, store, "--name", "baseline") == 0  # equal settings
    assert sevila("run", demo, store, "--name", "baseline", *UNIFORM) == 1
    error = capsys.readouterr().err
    assert "select_keyframes.method: localizer -> uniform" in error and "--replace" in error
    assert sevila("run", demo, store, "--name", "baseline", "--replace", *UNIFORM) == 0
    run = named_run(Store(store), "baseline")
    assert run.artifacts == named_run(Store(store), "uniform").artifacts


@pytest.mark.parametrize("name", ["../x", ".hidden", "a/b", "x" * 65, "ä", "a b", "a\n"])
def test_names_that_could_leave_the_folder_are_refused(
    finished: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "show", name, "--store", str(finished)]) == 1
    assert "cannot name a run" in capsys.readouterr().err


def test_a_failed_run_keeps_its_artifacts_pinned(demo: Path, tmp_path: Path) -> None:
    broken = edited(demo, tmp_path / "demo", lambda rows: [row | {"answer": ""} for row in rows])
    (broken / "tiny-blip2" / "model.safetensors").write_bytes(b"no weights")
    assert sevila("run", broken, tmp_path / "store", "--name", "x") == 1
    run = named_run(Store(tmp_path / "store"), "x")
    assert run.status == "failed" and run.artifacts


def test_a_killed_run_keeps_its_artifacts_pinned(named: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pinning(store, "x", "r", {}, []) as pins:
        pins.add("made-v1-0", "made", "")
    child = os.fork()
    if child == 0:
        with pinning(store, "x", "r", {}, []) as pins:
            pins.add("made-v1-1", "made", "")
            os._exit(9)
    os.waitpid(child, 0)
    run = named_run(store, "x")
    assert run.status == "running" and [pin.id for pin in run.artifacts] == ["made-v1-1", "made-v1-0"]


def test_a_damaged_name_is_an_error_and_can_be_removed(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(named, tmp_path / "store"))
    path = store / "names" / "uniform.json"
    path.write_text(path.read_text().replace("finished", "finisheD", 1))
    assert main(["runs", "show", "uniform", "--store", str(store)]) == 1
    assert "sevila runs rm uniform" in capsys.readouterr().err
    assert main(["runs", "--store", str(store)]) == 0
    assert "damaged" in capsys.readouterr().out
    write_note(path, named_run(Store(named), "uniform").as_dict() | {"artifacts": [Pin("../x", "y", "")._asdict()]})
    assert main(["runs", "show", "uniform", "--store", str(store)]) == 1
    assert "'../x' is not an artifact id" in capsys.readouterr().err
    assert main(["cache", "verify", "--all", "--drop", "--store", str(store)]) == 1
    assert "repeat its run with `--name uniform --replace" in capsys.readouterr().out
    assert main(["runs", "rm", "uniform", "--store", str(store)]) == 0
    assert main(["cache", "verify", "--all", "--store", str(store)]) == 0
    assert not path.exists()
