"""The recipes of the package, planned without videos, annotations and weights."""

from pathlib import Path

import pytest

from cli import main
from pipeline.engine.recipe import available, load
from stages.all import STAGES
from tests.pipeline.datasets.long_layouts import MLVU_PARQUET

PAPER_RECIPES = ("how2qa", "nextqa", "qvhighlights", "star", "tvqa", "vlep")
LONG_VIDEO_RECIPES = ("egoschema", "longvideobench", "mlvu", "videomme")
KEYFRAME_STAGES = (
    "list_questions",
    "import_backbone",
    "init_localizer",
    "sample_frames",
    "extract_features",
    "score_frames",
    "select_keyframes",
)
ANSWER_STAGES = ("init_answerer", "answer_questions", "evaluate")
HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Status by stage, in the plan's order."""
    assert main(["plan", *arguments]) == 0
    *lines, counts = capsys.readouterr().out.splitlines()
    assert counts.startswith("0 exists")
    return {line.split()[1]: line.split()[0] for line in lines}


@pytest.mark.parametrize("name", [*PAPER_RECIPES, *LONG_VIDEO_RECIPES])
def test_every_recipe_is_planned_without_data(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = plan(capsys, name, "--store", str(tmp_path))
    assert tuple(stage for stage in status if stage in KEYFRAME_STAGES) == KEYFRAME_STAGES
    if load(name, STAGES).config_of("score_frames").prompt != "moment":  # its queries have no options
        assert set(status) == {*KEYFRAME_STAGES, *ANSWER_STAGES}
    assert status["list_questions"] == "blocked"


@pytest.mark.parametrize(
    "name", [name for name in PAPER_RECIPES if name != "qvhighlights"]
)  # its queries have no options
def test_paper_recipes_are_planned_as_full_chains(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("chain.kind=full", "chain.pretraining_dataset=qvhighlights", "chain.pretraining_split=train")
    status = plan(capsys, name, "--store", str(tmp_path), *(f"--set={setting}" for setting in settings))
    trainings = {"pretrain_localizer", "label_frames", "refine_localizer", "finetune_answerer"}
    assert set(status) == {*KEYFRAME_STAGES, *ANSWER_STAGES, *trainings}


@pytest.mark.parametrize("name", PAPER_RECIPES)
def test_paper_recipes_use_the_same_model_and_precision(name: str) -> None:
    recipe, first = load(name, STAGES), load(PAPER_RECIPES[0], STAGES)
    for stage in ("import_backbone", "init_localizer", "extract_features", "select_keyframes"):
        assert recipe.config_of(stage) == first.config_of(stage)
    assert recipe.config_of("list_questions").dataset == name


def test_paper_recipes_have_the_settings_of_the_paper() -> None:
    # Paper section 4: 32 frames and 4 keyframes; QVHighlights 75 frames, which are 0.5 a second of 150 s.
    assert {name: load(name, STAGES).config_of("sample_frames").frames for name in PAPER_RECIPES} == {
        name: 75 if name == "qvhighlights" else 32 for name in PAPER_RECIPES
    }
    assert {load(name, STAGES).config_of("select_keyframes").k for name in PAPER_RECIPES} == {4}
    assert {name: load(name, STAGES).config_of("score_frames").prompt for name in PAPER_RECIPES} == {
        name: {"vlep": "next_event", "qvhighlights": "moment"}.get(name, "multiple_choice") for name in PAPER_RECIPES
    }


def test_long_video_recipes_sample_one_frame_per_second_and_use_the_same_model() -> None:
    for name in LONG_VIDEO_RECIPES:
        recipe = load(name, STAGES)
        assert recipe.config_of("list_questions").dataset == name
        frames = recipe.config_of("sample_frames")
        assert (frames.sampling, frames.frames_per_second) == ("fixed_rate", 1.0)
        for stage in ("import_backbone", "init_localizer", "init_answerer", "extract_features", "score_frames"):
            assert recipe.config_of(stage) == load(PAPER_RECIPES[0], STAGES).config_of(stage)


def test_plan_with_only_parquet_annotations_builds_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MLVU_PARQUET.read(tmp_path, MLVU_PARQUET.rows)
    places = ("--annotations", f"mlvu={tmp_path}", "--store", str(tmp_path / "store"))
    status = plan(capsys, "mlvu", *places)
    assert status["list_questions"] == "build" and status["sample_frames"] == "blocked"


def test_plan_with_only_annotations_builds_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "nextqa"
    folder.mkdir()
    (folder / "val.csv").write_text(HEADER + "1,10,2,2,what is it,0,0,DO,a,b,c,d,e\n")
    (folder / "map_vid_vidorID.json").write_text('{"1": "1/1"}')
    places = ("--annotations", f"nextqa={folder}", "--store", str(tmp_path / "store"))
    status = plan(capsys, "nextqa", *places, "--set", "select_keyframes.k=8")
    assert set(status) == {*KEYFRAME_STAGES, *ANSWER_STAGES}
    assert status["list_questions"] == "build" and status["sample_frames"] == "blocked"


def test_every_available_recipe_is_tested() -> None:
    assert set(available()) == {*PAPER_RECIPES, *LONG_VIDEO_RECIPES, "demo", "plain", "shapes_long"}
