"""The recipes that come with the package, planned where no video, no annotation and no weight is."""

from pathlib import Path

import pytest

from cli import main
from pipeline.engine.recipe import available, load
from stages.all import STAGES
from tests.pipeline.datasets.long_layouts import MLVU_PARQUET

SIX = ("how2qa", "nextqa", "qvhighlights", "star", "tvqa", "vlep")
LONG = ("egoschema", "longvideobench", "mlvu", "videomme")
TO_KEYFRAMES = (
    "list_questions",
    "import_backbone",
    "init_localizer",
    "sample_frames",
    "extract_features",
    "score_frames",
    "select_keyframes",
)
TO_ANSWERS = ("init_answerer", "answer_questions", "evaluate")
HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Status by stage, in the plan's order."""
    assert main(["plan", *arguments]) == 0
    *lines, counts = capsys.readouterr().out.splitlines()
    assert counts.startswith("0 exists")
    return {line.split()[1]: line.split()[0] for line in lines}


@pytest.mark.parametrize("name", [*SIX, *LONG])
def test_every_data_set_has_a_whole_plan_without_any_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan(capsys, name, "--store", str(tmp_path))
    assert tuple(stage for stage in found if stage in TO_KEYFRAMES) == TO_KEYFRAMES
    if load(name, STAGES).config_of("score_frames").prompt != "moment":  # which has no options to answer with
        assert set(found) == {*TO_KEYFRAMES, *TO_ANSWERS}
    assert found["list_questions"] == "blocked"


@pytest.mark.parametrize(
    "name", [name for name in SIX if name != "qvhighlights"]
)  # which has no options to answer with
def test_every_data_set_of_the_paper_can_be_trained_on_too(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("chain.kind=full", "chain.pretraining_dataset=qvhighlights", "chain.pretraining_split=train")
    found = plan(capsys, name, "--store", str(tmp_path), *(f"--set={setting}" for setting in settings))
    trainings = {"pretrain_localizer", "label_frames", "refine_localizer", "finetune_answerer"}
    assert set(found) == {*TO_KEYFRAMES, *TO_ANSWERS, *trainings}


@pytest.mark.parametrize("name", SIX)
def test_every_data_set_runs_the_same_model_at_the_same_precision(name: str) -> None:
    recipe, first = load(name, STAGES), load(SIX[0], STAGES)
    for stage in ("import_backbone", "init_localizer", "extract_features", "select_keyframes"):
        assert recipe.config_of(stage) == first.config_of(stage)
    assert recipe.config_of("list_questions").dataset == name


def test_the_recipes_have_the_settings_of_the_paper() -> None:
    # Paper section 4: 32 frames and 4 keyframes; QVHighlights 75 frames, which are 0.5 a second of 150 s.
    assert {name: load(name, STAGES).config_of("sample_frames").frames for name in SIX} == {
        name: 75 if name == "qvhighlights" else 32 for name in SIX
    }
    assert {load(name, STAGES).config_of("select_keyframes").k for name in SIX} == {4}
    assert {name: load(name, STAGES).config_of("score_frames").prompt for name in SIX} == {
        name: {"vlep": "next_event", "qvhighlights": "moment"}.get(name, "multiple_choice") for name in SIX
    }


def test_long_videos_are_seen_once_a_second_by_the_same_model() -> None:
    for name in LONG:
        recipe = load(name, STAGES)
        assert recipe.config_of("list_questions").dataset == name
        frames = recipe.config_of("sample_frames")
        assert (frames.sampling, frames.frames_per_second) == ("fixed_rate", 1.0)
        for stage in ("import_backbone", "init_localizer", "init_answerer", "extract_features", "score_frames"):
            assert recipe.config_of(stage) == load(SIX[0], STAGES).config_of(stage)


def test_parquet_alone_is_enough_to_plan_past_the_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MLVU_PARQUET.read(tmp_path, MLVU_PARQUET.rows)
    places = ("--annotations", f"mlvu={tmp_path}", "--store", str(tmp_path / "store"))
    found = plan(capsys, "mlvu", *places)
    assert found["list_questions"] == "build" and found["sample_frames"] == "blocked"


def test_annotations_alone_are_enough_to_plan_past_the_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "nextqa"
    folder.mkdir()
    (folder / "val.csv").write_text(HEADER + "1,10,2,2,what is it,0,0,DO,a,b,c,d,e\n")
    (folder / "map_vid_vidorID.json").write_text('{"1": "1/1"}')
    places = ("--annotations", f"nextqa={folder}", "--store", str(tmp_path / "store"))
    found = plan(capsys, "nextqa", *places, "--set", "select_keyframes.k=8")
    assert set(found) == {*TO_KEYFRAMES, *TO_ANSWERS}
    assert found["list_questions"] == "build" and found["sample_frames"] == "blocked"


def test_no_recipe_is_left_out_of_these_tests() -> None:
    assert set(available()) == {*SIX, *LONG, "demo", "plain", "shapes_long"}
