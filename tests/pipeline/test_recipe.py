import gzip
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.errors import RecipeError
from pipeline.engine.recipe import Recipe, available, load, section_configs
from pipeline.engine.toml_file import read_named
from stages.all import STAGES


def test_every_shipped_recipe_is_valid_and_has_a_description() -> None:
    assert {"demo", "plain", "nextqa"} <= set(available())
    assert all(load(name, STAGES).description for name in available())


def test_stages_without_a_section_have_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[sample_frames]\nframes = 16\n")
    recipe = load(str(tmp_path / "mine.toml"), STAGES)
    assert recipe.name == "mine"
    assert recipe.config_of("sample_frames").frames == 16
    assert recipe.config_of("select_keyframes").k == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[sample_frame]\nframes = 3", r"\[sample_frame\] is not a stage \(did you mean 'sample_frames'\?\)"),
        ("[sample_frames]\nframs = 3", r"\[sample_frames\] has no key 'frams' \(did you mean 'frames'\?\)"),
        ("[sample_frames]\nframes = '3'", r"\[sample_frames\] frames = '3': input should be a valid integer"),
        ("[sample_frames]\nframes = 0", r"frames = 0: input should be greater than or equal to 1"),
        ("[sample_frames]\nframes = true", r"frames = True: input should be a valid integer"),
        (
            "[select_keyframes]\nmethod = 'topk'",
            r"method = 'topk': is no method \(did you mean 'top_k'\?\); there are: localizer, aks, ",
        ),
        ("[import_backbone]\nweights = '/data/blip2'", r"weights = '/data/blip2': '/data/blip2' is a path"),
        ("frames = 3", r"'frames' stands outside any \[section\]"),
        ("description = 3", "description is 3, expected text"),
        ("[sample_frames", "not readable as TOML"),
    ],
)
def test_an_invalid_recipe_is_refused_with_file_key_and_suggestion(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message) as error:
        load(str(path), STAGES)
    assert str(path) in str(error.value)


def test_one_error_lists_all_problems(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[sample_frames]\nframes = 0\nsiz = 3")
    with pytest.raises(RecipeError, match=r"frames = 0.*; .*no key 'siz' \(did you mean 'size'\?\)"):
        load(str(tmp_path / "mine.toml"), STAGES)


@pytest.mark.parametrize(
    ("setting", "stage", "key", "value"),
    [
        ("sample_frames.frames=16", "sample_frames", "frames", 16),
        ("sample_frames.frames_per_second=2", "sample_frames", "frames_per_second", 2.0),
        ("select_keyframes.method=uniform", "select_keyframes", "method", "uniform"),
        ('select_keyframes.method="random"', "select_keyframes", "method", "random"),
        ("import_backbone.weights=google/x=y", "import_backbone", "weights", "google/x=y"),
    ],
)
def test_a_setting_changes_one_key(setting: str, stage: str, key: str, value: object) -> None:
    assert getattr(load("plain", STAGES, [setting]).config_of(stage), key) == value


@pytest.mark.parametrize("setting", ["frames=3", "sample_frames.frames", "sample_frames.=3", "sample_frames.frmes=3"])
def test_an_invalid_setting_is_quoted_in_the_error(setting: str) -> None:
    with pytest.raises(RecipeError, match=f"--set {setting}"):
        load("plain", STAGES, [setting])


def test_settings_are_checked_together_and_each_error_names_its_setting() -> None:
    assert (
        load("plain", STAGES, ["select_keyframes.k=none", "select_keyframes.k=3"]).config_of("select_keyframes").k == 3
    )
    with pytest.raises(RecipeError) as error:
        load("plain", STAGES, ["select_keyframes.k=none", "sample_frames.frames=16", "select_keyframes.method=best"])
    assert "--set select_keyframes.k=none: [select_keyframes] k = 'none'" in str(error.value)
    assert "--set select_keyframes.method=best: [select_keyframes] method = 'best'" in str(error.value)


def test_a_section_is_validated_once_for_many_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    validated: list[str] = []
    config = STAGES["select_keyframes"].config
    init = config.__init__
    monkeypatch.setattr(config, "__init__", lambda self, **values: validated.append("x") or init(self, **values))
    load("plain", STAGES, ["sample_frames.frames=16", "select_keyframes.k=3", "chain.kind=full"], seed=3)
    assert len(validated) == 1


def test_an_unknown_recipe_suggests_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="did you mean 'nextqa'"):
        load("nextq", STAGES)


def test_the_seed_applies_to_every_stage_but_frame_sampling() -> None:
    recipe = load("plain", STAGES, ["refine_localizer.seed=7"], seed=3)
    for stage in ("pretrain_localizer", "finetune_answerer", "select_keyframes"):
        assert recipe.config_of(stage).seed == 3
    assert recipe.config_of("refine_localizer").seed == 7
    assert recipe.config_of("sample_frames") == load("plain", STAGES).config_of("sample_frames")


def test_keys_set_by_a_chain_are_validated() -> None:
    recipe = load("plain", STAGES, ["select_keyframes.k=2"])
    changed = recipe.config(STAGES["select_keyframes"], method="uniform")
    assert (changed.method, changed.k) == ("uniform", 2)
    with pytest.raises(
        RecipeError, match=r"the forward chain of recipe 'plain' sets \[select_keyframes\] method = 'best'"
    ):
        recipe.config(STAGES["select_keyframes"], method="best")


def test_chain_is_a_section_and_not_a_stage() -> None:
    assert load("plain", STAGES, ["chain.kind=full"]).chain.kind == "full"
    with pytest.raises(RecipeError, match="'chain' is not a stage"):
        load("plain", STAGES).config_of("chain")


# Valid and invalid names and values.
SECTIONS = [*section_configs(STAGES), "sample_frame", "description", ""]
KEYS = [
    *sorted({key for config in section_configs(STAGES).values() for key in config.model_fields}),
    "",
    "k.k",
    "__class__",
]
VALUES = [
    "0",
    "-1",
    "1e999",
    "nan",
    "true",
    "''",
    "'plain'",
    "'../x'",
    "[]",
    "['uniform']",
    "{}",
    "1979-05-27",
    "'\\ud800'",
]
values = st.sampled_from(VALUES) | st.text(max_size=8) | st.integers().map(str)
lines = st.builds("{} = {}".format, st.sampled_from(KEYS), values) | st.builds("[{}]".format, st.sampled_from(SECTIONS))


@settings(max_examples=60)
@given(st.sampled_from(SECTIONS), st.sampled_from(KEYS), values, st.text(max_size=12))
def test_any_setting_gives_a_recipe_or_an_error_with_the_setting(section: str, key: str, value: str, text: str) -> None:
    for setting in (f"{section}.{key}={value}", text):
        try:
            recipe = load("plain", STAGES, [setting])
        except RecipeError as error:
            assert "--set" in str(error)
        else:
            assert isinstance(recipe, Recipe) and all(recipe.config(stage) for stage in STAGES.values())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=6).map("\n".join).map(str.encode) | st.binary(max_size=40))
def test_any_file_gives_a_recipe_or_an_error_with_the_file_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    try:
        recipe = load(str(path), STAGES)
    except RecipeError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(recipe, Recipe) and all(recipe.config(stage) for stage in STAGES.values())


def test_a_recipe_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbfdescription = "mine"\n[sample_frames]\nframes = 7\n')
    assert load(str(path), STAGES).config_of("sample_frames").frames == 7


def test_a_pipe_or_folder_is_refused_as_a_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    for name, what in (("pipe.toml", "a pipe"), ("", "a folder")):
        with pytest.raises(RecipeError, match=f"it is {what}, a recipe is a file or a name"):
            load(str(tmp_path / name), STAGES)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"[sample_frames]\n"), "packed by gzip"),
        (b"<!DOCTYPE html>\n<html></html>\n", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("[sample_frames]\n".encode("utf-16"), "text in UTF-16"),
    ],
    ids=["gzip", "html", "lfs", "utf-16"],
)
def test_a_file_of_another_kind_is_named_in_the_error(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=rf"mine\.toml: .*{kind}"):
        read_named("recipe", f"{tmp_path / 'mine.toml'}", {})
