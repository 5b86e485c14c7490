"""The packages of docs/extending as printed there, installed outside the repository and used by one run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cache.errors import SevilaError
from cache.store import Store
from pipeline.engine import recipe
from pipeline.engine.recipe import load
from pipeline.selection.selector import Candidates
from stages import extensions
from stages.all import OURS, STAGES
from stages.score_frames import FrameScores
from tests.conftest import Package
from tests.small_world import SMALL

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs" / "extending").glob("[!i]*.md"))

SCRIPT = """
import json, sys
import sevila

folder, recipe, scorer = sys.argv[1:]
settings = {
    "list_questions.dataset": "toy_questions",
    "list_questions.split": "val",
    "score_frames.prompt": "short",
    "answer_questions.prompt": "short",
    "select_keyframes.selector": "best_of_every_nth",
    "select_keyframes.options": {"stride": 3},
    "select_keyframes.k": 2,
    "chain.backbone": "shallow_vit",
    "shallow_vit.weights": "tiny-blip2",
    "shallow_vit.n_blocks": 1,
    "chain.scorer": scorer,
    "chain.also": ["measure_gaps"],
}
places = {"annotations": f"{folder}/toy.csv", "videos": f"{folder}/videos", "weights": f"{folder}/tiny-blip2"}
run = sevila.load(recipe, settings=settings, **places, device="cpu").run()
stages = {each.stage: each.id for each in run.artifacts}
keyframes = run["select_keyframes"].arrow().to_pylist()
gaps = run["measure_gaps"].arrow().to_pylist()
config = run["select_keyframes"].record.config
print(json.dumps([stages, keyframes, gaps, config, sevila.cache.__name__]))
"""


def install(site: Path) -> None:
    """Write the modules of all pages and the metadata of a package that holds them."""
    (site / "toy-1.0.dist-info").mkdir(parents=True)
    groups: dict[str, list[str]] = {}
    for page in PAGES:
        text = page.read_text()
        (module,) = re.findall(r"`(toy_\w+)\.py`", text)
        (code,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
        (site / f"{module}.py").write_text(code)
        (group,) = re.findall(r'entry-points\."([\w.]+)"', text)
        groups.setdefault(group, []).extend(re.findall(rf'\w+ = "{module}[:\w]*"', text))
    entries = [line.replace('"', "") for group, lines in groups.items() for line in (f"[{group}]", *lines)]
    (site / "toy-1.0.dist-info" / "entry_points.txt").write_text("\n".join(entries))
    (site / "toy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_at_most_forty_lines(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= 40


@pytest.mark.parametrize("scorer", ["localizer", "score_by_brightness"])
def test_a_run_uses_the_packages_of_the_manual_as_printed(scorer: str, demo: Path, tmp_path: Path) -> None:
    install(tmp_path / "site")
    world = tmp_path / "world"
    world.mkdir()
    for name in ("videos", "tiny-blip2"):
        (world / name).symlink_to(demo / name)
    videos = [path.stem for path in sorted((demo / "videos").iterdir())[:2]]
    lines = ["video,question,right", f"{videos[0]},Is it red?,yes", f"{videos[1]},Is it round?,no"]
    (world / "toy.csv").write_text("\n".join(lines))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEVILA_")}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(world), SMALL, scorer],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": f"{REPOSITORY}:{tmp_path / 'site'}"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    stages, keyframes, gaps, config, name = json.loads(process.stdout.splitlines()[-1])
    assert name == "sevila.cache"  # the installed name, not the tests' `cache`
    assert {"shallow_vit", "measure_gaps"} <= stages.keys() and "import_backbone" not in stages
    assert config["options"] == {"stride": 3} and all({*row["positions"]} <= {0, 3, 6} for row in keyframes)
    assert [row["question_id"] for row in gaps] == [f"{videos[0]}#Is it red?", f"{videos[1]}#Is it round?"]
    store = Store(tmp_path / ".sevila")
    assert store.record(stages["answer_questions"]).config["prompt"] == "short"
    assert ("score_by_brightness" in stages) == ("score_frames" not in stages) == (scorer != "localizer")
    assert store.record(stages["extract_features"]).inputs["backbone"] == stages["shallow_vit"]


PROMPT = """
from sevila.extending import PromptStyle
{name} = PromptStyle(lambda question, options: question, lambda question, options, instruction: question)
"""


def test_an_unknown_prompt_is_refused_with_the_nearest_known_one(package: Package) -> None:
    import sevila

    package("brief", PROMPT.format(name="brief"), group="sevila.prompts")
    assert (
        sevila.load(SMALL, settings={"score_frames.prompt": "brief"}).recipe.config_of("score_frames").prompt == "brief"
    )
    with pytest.raises(sevila.SevilaError, match=r"did you mean 'brief'.*there are: brief, moment, multiple_choice"):
        sevila.load(SMALL, settings={"score_frames.prompt": "brif"})
    with pytest.raises(sevila.SevilaError, match="is not a prompt for choosing one of several options"):
        sevila.load(SMALL, settings={"answer_questions.prompt": "moment"})


def test_a_prompt_with_wrong_parameters_is_refused_at_load(package: Package) -> None:
    package("brief", PROMPT.format(name="brief").replace("question, options:", "question:"), group="sevila.prompts")
    with pytest.raises(SevilaError, match=r"whose answer cannot be called with \(question, options\)") as error:
        load(SMALL, STAGES, ["score_frames.prompt=brief"])
    assert "template" not in str(error.value)  # the template is valid


STAGE = """
from sevila.extending import Config, FrameScores, Output, Questions, RunContext, stage

class Odd(Config): ...

@stage(version=1, output=FrameScores)
def odd({parameters}): ...
"""


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("run: RunContext, *, out: Output", "odd takes run, out; expected cfg, run, inputs and, by name, out"),
        ("cfg, run: RunContext, *, out: Output", "the type of cfg is not given as a class derived from Config"),
    ],
)
def test_a_recipe_names_the_reason_why_its_stage_cannot_be_loaded(
    parameters: str, message: str, package: Package, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recipe, "NOT_LOADED", {})
    monkeypatch.setattr(extensions, "NOT_LOADED", recipe.NOT_LOADED)
    package("odd", STAGE.format(parameters=parameters), group="sevila.stages")
    assert extensions.plug_in_stages(OURS) == {} and message in caplog.text
    with pytest.raises(SevilaError, match=f"scorer = 'odd': stage 'odd' of theirs cannot be loaded: .*{message}"):
        extensions.scorer_stage(OURS, FrameScores, "odd")
    with pytest.raises(SevilaError, match=f"'odd' is not a stage: .*{message}"):
        recipe.refuse_unknown_stage("odd", OURS)


def test_an_import_of_pipeline_is_refused_with_the_right_import(package: Package) -> None:
    from pipeline.models.prompts import prompt_named

    code = "raise ModuleNotFoundError(\"No module named 'pipeline'\", name='pipeline')"
    package("old", code, group="sevila.prompts")
    with pytest.raises(ValueError, match=r"by `from sevila.extending import \.\.\.`"):
        prompt_named("old")


TOY_OF_NUMPY = """import numpy

from pipeline.selection.selector import selector


@selector(version=1, source="none")
def toy(scores, k):
    return numpy.mean(scores, axis=5)
"""


def test_an_error_inside_numpy_names_the_line_of_the_package(tmp_path: Path) -> None:
    module = tmp_path / "toy.py"
    module.write_text(TOY_OF_NUMPY)
    exec(compile(TOY_OF_NUMPY, str(module), "exec"), theirs := {"__name__": "toy"})
    with pytest.raises(SevilaError, match=r"\(toy.py, line 8\)$"):
        theirs["toy"](Candidates.of(scores=[1.0, 2.0]), 1)
