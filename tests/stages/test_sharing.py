"""Sharing a store: a pushed run is read and repeated where it is pulled."""

import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from cli import main
from tests.stages.runs import files, sevila
from tests.stages.test_places import without


def push(store: Path, remote: Path | str, *more: str) -> int:
    return main(["cache", "push", str(remote), *more, "--store", str(store)])


def pull(store: Path, remote: Path | str, *more: str) -> int:
    return main(["cache", "pull", str(remote), *more, "--store", str(store)])


@pytest.fixture(scope="session")
def pushed(named: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to which the run `baseline` was pushed; tests must not change it."""
    remote = tmp_path_factory.mktemp("remote") / "shared"
    assert push(named, remote, "baseline") == 0
    return remote


def test_a_pulled_run_is_repeated_without_the_videos(
    demo: Path, named: Path, pushed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert pull(store, pushed, "baseline") == 0
    assert main(["cache", "verify", "--all", "--store", str(store)]) == 0
    assert main(["runs", "show", "baseline", "--store", str(store)]) == 0
    before = {path: path.read_bytes() for path in (store / "artifacts").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(without("videos", "run", demo, store, "--name", "again")) == 0
    printed = capsys.readouterr().out
    assert {path: path.read_bytes() for path in (store / "artifacts").rglob("*") if path.is_file()} == before
    assert sevila("run", demo, named) == 0
    assert capsys.readouterr().out.replace(str(named), str(store)) == printed
    assert files(store) == {id: of for id, of in files(named).items() if id in files(store)}


def test_a_run_pulled_without_features_is_repeated_and_verified(
    demo: Path, named: Path, pushed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert pull(store, pushed, "baseline", "--without-features") == 0
    assert not list((store / "pool").glob("extract_features*")) and list((store / "pool").glob("sample_frames*"))
    assert main(without("videos", "run", demo, store)) == 0
    assert main(["cache", "verify", "--all", "--store", str(store)]) == 0
    assert "was pulled without 8 arrays" in capsys.readouterr().out
    whole = Path(shutil.copytree(store, tmp_path / "whole"))
    assert pull(whole, pushed, "baseline") == 0
    assert main(["cache", "verify", "--all", "--store", str(whole)]) == 0
    assert "was pulled without" not in capsys.readouterr().out

    new = without("videos", "run", demo, store, "--set", "select_keyframes.k=2")
    assert main(new) == 1
    assert "gone from the pool, or left out of a pull" in capsys.readouterr().err
    assert main(without("videos", "stage", demo, store, "extract_features", "--again")) == 0  # from the frames
    assert main(new) == 0


@pytest.mark.parametrize(
    ("address", "missing", "expected"),
    [
        ("s3://bucket/x", "s3fs", "pip install 'sevila-pipeline[s3]'"),
        ("gs://bucket/x", "gcsfs", "pip install 'sevila-pipeline[gs]'"),
        ("gcs://bucket/x", "gcsfs", "pip install 'sevila-pipeline[gs]'"),
        ("ssh://host/x", "paramiko", "pip install 'sevila-pipeline[ssh]'"),
        ("sftp://host/x", "paramiko", "pip install 'sevila-pipeline[ssh]'"),
        ("hf://datasets/owner/name", "huggingface_hub", "huggingface_hub"),
        ("az://container/x", "adlfs", "Install adlfs"),
        (
            "nothing://x",
            "",
            "expected a folder, or an address such as s3://BUCKET/PATH, gs://, hf:// or ssh://HOST/PATH",
        ),
    ],
)
def test_an_address_with_a_missing_package_is_an_error_that_says_what_to_install(
    address: str,
    missing: str,
    expected: str,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.startswith("fsspec.implementations.sftp")]:
        monkeypatch.delitem(sys.modules, name)
    loaded = import_module("fsspec.registry")._registry  # of earlier tests
    monkeypatch.delitem(loaded, address.split("://")[0], raising=False)
    monkeypatch.setitem(sys.modules, missing or "none of these", None)
    assert main(["cache", "push", address, "--store", str(finished)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert address in error and expected in error and "Traceback" not in error


def test_push_and_pull_errors_name_the_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, message in [
        (["push", str(tmp_path / "place")], "there is no store to push"),
        (["pull", str(tmp_path / "place")], "is not a remote"),
        (["pull", "gs://bucket/x"], "pip install 'sevila-pipeline[gs]'"),
    ]:
        assert main(["cache", *command, "--store", str(tmp_path / "store")]) == 1
        assert message in capsys.readouterr().err


def test_push_lists_what_it_lacks_of_a_store_below(
    demo: Path, named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, remote = tmp_path / "store", tmp_path / "remote"
    below = ("--below", str(named))
    assert sevila("run", demo, store, "--set", "select_keyframes.k=2", "--name", "two", *below) == 0
    capsys.readouterr()
    assert push(store, remote, "two") == 0
    printed = capsys.readouterr().out
    assert (
        "not pushed, as this store lacks it (for artifacts of a store below, give --below): list_questions-" in printed
    )
    assert push(store, remote, "two", *below) == 0
    assert "not pushed" not in capsys.readouterr().out
    assert pull(tmp_path / "other", remote, "two") == 0
    assert main(["cache", "verify", "--all", "--store", str(tmp_path / "other")]) == 0
