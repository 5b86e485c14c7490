"""The `sevila weights` command: list, show, export, import and compare."""

import json
from pathlib import Path

import pytest

from cache.store import Store
from cli import main
from tests.stages.runs import arguments, sevila
from tests.tiny_blip2 import write_tiny_blip2


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sevila.toml"


def weights(store: Path, *words: str) -> int:
    return main(["weights", *words, "--store", str(store)])


def test_exported_weights_are_imported_bit_identically(
    demo: Path, store: Path, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('# mine\n[videos]\nplain = "elsewhere"\n')
    file = tmp_path / "ours.pth"
    assert weights(store, "export", "init_localizer", "init_answerer", "-o", str(file)) == 0
    assert weights(store, "import", "ours", str(file)) == 0
    assert weights(store, "import", "ours", str(file)) == 0  # importing again changes nothing
    assert config.read_text().startswith("# mine\n[videos]\n") and config.read_text().count("ours") == 2
    capsys.readouterr()
    for stage in ("init_localizer", "init_answerer"):
        before = set(Store(store))
        assert sevila("stage", demo, store, stage, "--set", f"{stage}.weights=ours") == 0
        (id,) = set(Store(store)) - before
        (former,) = [each for each in before if each.startswith(stage)]
        name = "visual_prompt.safetensors"
        assert (Store(store).path(id) / name).read_bytes() == (Store(store).path(former) / name).read_bytes()
        assert weights(store, "compare", former, "ours", "--json") == 0
    capsys.readouterr()
    assert weights(store, "ls") == 0
    listed = capsys.readouterr().out
    assert "ours" in listed and str(file) in listed and "init_answerer-v1-" in listed and "814.55 MB" in listed


def test_weights_are_compared_tensor_by_tensor(
    demo: Path, store: Path, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, tiny = tmp_path / "blip2", demo / "tiny-blip2"
    assert weights(store, "export", "init_answerer", "-o", str(folder), "--weights", f"tiny-blip2={tiny}") == 0
    capsys.readouterr()
    assert weights(store, "compare", str(folder), str(tiny)) == 0
    assert capsys.readouterr().out.count("tensors are equal to the bit") == 3
    assert weights(store, "show", str(folder), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["parts"]) == {"ViT", "language model", "Q-Former"}
    assert {file["file"] for file in shown["files"]} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert weights(store, "compare", "init_localizer", "init_answerer") == 0
    assert capsys.readouterr().out.startswith("Localizer against Answerer: all ")
    assert weights(store, "compare", "init_localizer", "nothing") == 1
    assert "`sevila weights ls` lists all weights" in capsys.readouterr().err


def test_export_refuses_a_localizer_and_an_answerer_of_different_backbones(
    demo: Path, store: Path, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_blip2(tmp_path / "other", seed=7)
    (former,) = [id for id in Store(store) if id.startswith("init_answerer")]
    other = ("--weights", f"tiny-blip2={tmp_path / 'other'}")
    for stage in ("import_backbone", "init_answerer"):
        assert sevila("stage", demo, store, stage, *other) == 0
    (id,) = [id for id in Store(store) if id.startswith("init_answerer") and id != former]
    backbones = {str(Store(store).record(each).inputs["backbone"]) for each in (former, id)}
    assert len(backbones) == 2
    capsys.readouterr()
    assert weights(store, "export", "init_localizer", id, "-o", str(tmp_path / "x.pth")) == 1
    printed = capsys.readouterr().err
    assert "expected a Localizer and an Answerer of one backbone" in printed
    assert all(each in printed for each in backbones) and not (tmp_path / "x.pth").exists()
    assert weights(store, "export", "init_localizer", "init_answerer", "-o", str(tmp_path / "x.pth")) == 0
    assert f"Answerer {former}" in capsys.readouterr().out  # not the newest, which has the other backbone


def test_invalid_exports_and_imports_are_errors(
    demo: Path, store: Path, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights(store, "export", "init_localizer", "init_answerer", "-o", str(tmp_path / "x")) == 1
    assert "a BLIP-2 folder has one Q-Former" in capsys.readouterr().err
    assert weights(store, "export", "init_localizer", "-o", str(tmp_path / "x.txt")) == 1
    assert "has the suffix of another file type; expected .safetensors or .pth" in capsys.readouterr().err
    assert not (tmp_path / "x.txt").exists()
    assert weights(store, "show", "sevila-pretraind") == 1
    assert "did you mean 'sevila-pretrained'" in capsys.readouterr().err
    assert weights(store, "export", "evaluate", "-o", str(tmp_path / "x.pth")) == 1
    assert "expected weights of a Localizer or an Answerer" in capsys.readouterr().err
    assert weights(store, "import", "ours", str(demo / "questions.csv")) == 1
    assert not config.exists()
    config.write_text("[weights\n")
    assert weights(store, "import", "ours", str(demo / "tiny-blip2")) == 1
    assert "not readable as TOML" in capsys.readouterr().err and config.read_text() == "[weights\n"
    config.write_text('weights = {ours = "x"}\n')
    assert weights(store, "import", "ours", str(demo / "tiny-blip2")) == 1
    assert "under [weights] in it" in capsys.readouterr().err and config.read_text() == 'weights = {ours = "x"}\n'
    assert main([*arguments("plan", demo, store)]) == 0
