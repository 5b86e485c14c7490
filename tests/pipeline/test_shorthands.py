"""Shorthand options expand to settings, so that artifact identities contain only settings."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from cache.store import Store
from cli import main
from pipeline.batching import tokens_suiting
from pipeline.engine.hardware import batch_tokens_of, tokens_at_once
from pipeline.engine.recipe import available, load
from pipeline.engine.stage import RunContext
from pipeline.recipes.shorthands import settings_of
from stages.all import STAGES


def precisions(settings: list[str]) -> dict[str, str]:
    return dict(setting.split(".precision=") for setting in settings)


def test_precision_is_set_in_every_stage_that_has_the_key() -> None:
    with_precision = {name for name, stage in STAGES.items() if "precision" in stage.config.model_fields}
    for precision in ("float32", "bfloat16"):
        assert precisions(settings_of(STAGES, precision, None, "cpu")) == dict.fromkeys(with_precision, precision)  # type: ignore[arg-type]
    assert settings_of(STAGES, None, None, "cuda") == []
    assert settings_of(STAGES, "auto", None, "cpu") == settings_of(STAGES, "float32", None, "cuda")


def test_automatic_precision_on_a_gpu_is_that_of_the_recipes() -> None:
    expected = precisions(settings_of(STAGES, "auto", None, "cuda:1"))
    for path in available().values():
        for section, values in tomllib.loads(path.read_text()).items():
            if "precision" in values:
                assert expected[section] == values["precision"], f"{path}: [{section}]"


def test_int8_applies_to_language_model_stages_and_others_are_automatic() -> None:
    asking = {"score_frames", "score_by_selector", "label_frames", "answer_questions", "generate_answers"}
    for device in ("cpu", "cuda:1"):
        expected = precisions(settings_of(STAGES, "auto", None, device)) | dict.fromkeys(asking, "int8")
        assert precisions(settings_of(STAGES, "int8", None, device)) == expected


def test_a_stage_setting_overrides_a_shorthand() -> None:
    settings = [*settings_of(STAGES, "bfloat16", 3, "cpu"), "score_frames.precision=float32"]
    recipe = load("nextqa", STAGES, settings)
    assert recipe.config_of("score_frames").precision == "float32"
    assert recipe.config_of("answer_questions").precision == "bfloat16"
    assert recipe.config_of("list_questions").limit == 3


def test_shorthand_options_plan_the_same_as_their_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "questions.csv").write_text("video,question,a0,a1,answer\n" + "v.mp4,Is it red?,yes,no,yes\n")
    paths = ["--store", str(tmp_path / "store"), "--annotations", str(tmp_path / "questions.csv")]
    plans = []
    for options in (
        ["--precision", "float32", "--limit", "7"],
        ["--batch-tokens", "auto"]  # not part of an identity
        + [option for setting in settings_of(STAGES, "float32", 7, "cpu") for option in ("--set", setting)],
    ):
        assert main(["plan", "plain", *options, *paths]) == 0
        plans.append(capsys.readouterr().out)
    assert plans[0] == plans[1]


def test_init_writes_a_config_file_with_every_name_and_never_overwrites_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    text = Path("sevila.toml").read_text()
    assert tomllib.loads(text) == {"annotations": {}, "videos": {}, "weights": {}}
    lines = [line.removeprefix("# ") if line.startswith('# "') else line for line in text.splitlines()]
    places = tomllib.loads("\n".join(lines))
    assert {"nextqa", "plain"} <= places["videos"].keys() and "sevila-pretrained" in places["weights"]
    Path("sevila.toml").write_text("[videos]\nplain = 'mine'\n")
    assert main(["init"]) == 1
    assert "exists already, and is not changed" in capsys.readouterr().err
    assert Path("sevila.toml").read_text() == "[videos]\nplain = 'mine'\n"


def test_automatic_batches_on_a_gpu_start_large() -> None:
    assert batch_tokens_of(77, "cuda") == 77
    assert (batch_tokens_of("auto", "cuda:1") or 0) > tokens_suiting("cuda:1")


def test_default_batch_tokens_are_smaller_on_a_cpu_than_on_a_gpu(tmp_path: Path) -> None:
    assert batch_tokens_of("auto", "cpu") is None
    run = RunContext(Store(tmp_path), device="cpu")
    assert tokens_at_once(run) == tokens_suiting("cpu") < tokens_suiting("cuda")
    assert tokens_at_once(replace(run, batch_tokens=77)) == 77
