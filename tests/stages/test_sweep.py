"""`sevila sweep`: ways to choose keyframes, each compared with uniform frames on the same questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache.errors import RecipeError
from cache.store import Store
from pipeline.engine.recipe import load
from pipeline.metrics.comparison import PairedRow, power
from pipeline.recipes.opening import Request
from reports import sweep
from reports.page.runs import reported_run
from reports.sweep import requests_of
from reports.sweep_grid import Cell, Grid
from stages.all import STAGES
from tests.small_world import SMALL
from tests.stages.runs import arguments, main
from tests.tiny_scorers import write_tiny_embedder, write_tiny_matcher

PAIRED = PairedRow("overall", "overall", True, 1000, 50.0, 55.0, 5.0, 1.0, 9.0, 75, 125, 0.0005)


def test_a_selector_without_scores_is_one_cell_for_all_scorers() -> None:
    cells = Grid(["top_k", "oracle"], [2, 4], scorers=["localizer", "clip"]).cells()
    assert [cell.selector for cell in cells] == ["uniform"] * 2 + ["top_k"] * 4 + ["oracle"] * 2
    assert len(set(cells)) == len(cells) and all(cell.baseline in cells for cell in cells)


def test_a_cell_sets_keys_of_the_recipe() -> None:
    assert Cell("aks", 8, "clip", "").settings_over("aks") == [
        "chain.kind=forward",
        "select_keyframes.method=localizer",
        "select_keyframes.selector=aks",
        "select_keyframes.k=8",
        "chain.scorer=clip",
    ]
    keys = ["method=oracle", "selector=top_k", "options={}", "k=8"]
    assert Cell("oracle", 8, "", "").settings_over("top_k")[1:] == [f"select_keyframes.{key}" for key in keys]


def test_options_of_the_recipes_selector_apply_to_no_other() -> None:
    own = ["select_keyframes.selector=aks", "select_keyframes.options={t1 = 0.9}"]
    for name, t1 in (("aks", 0.9), ("bolt", None), ("top_k", None)):
        settings = [*own, *Cell(name, 8, "localizer", "").settings_over("aks")]
        chosen = load("plain", STAGES, settings).config_of("select_keyframes")
        assert chosen.selector == name and chosen.options.get("t1") == t1


@pytest.mark.parametrize("own", ['selector = "aks"\noptions = {t1 = 0.9}', 'selector = "random"\noptions = {seed = 3}'])
def test_a_recipe_with_its_own_selector_is_swept_with_all_others(tmp_path: Path, own: str) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'[list_questions]\ndataset = "plain"\n\n[select_keyframes]\n{own}\n')
    cells = requests_of(Request(str(recipe), [], None, {}), Grid(["top_k", "aks", "random", "oracle"], [2]))
    chosen = {}
    for cell, request in cells.items():
        config = load(request.recipe, STAGES, request.settings).config_of("select_keyframes")
        assert config.chosen_by.name == cell.selector
        chosen[cell.selector] = config.options
    assert chosen["uniform"] == chosen["top_k"] == {}
    assert (chosen["aks"]["t1"], chosen["random"].get("seed")) == ((0.9, None) if "aks" in own else (0.8, 3))


def test_an_unknown_selector_is_refused_with_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"no selector 'top'.*did you mean 'top_k'"):
        Grid(["top"], [2]).cells()


def test_a_scorer_or_answerer_accepts_a_model_name_and_keys() -> None:
    own = "clip=google/siglip,score_by_similarity.template=A frame, perhaps of {question}"
    assert Cell("top_k", 8, own, "served=some/model,answer_with_vlm.revision=2").settings_over("top_k")[4:] == [
        "chain.scorer=clip",
        'import_embedder.weights="google/siglip"',
        "score_by_similarity.template=A frame, perhaps of {question}",
        "chain.answerer=vlm",
        'answer_with_vlm.weights=""',
        'answer_with_vlm.served="some/model"',
        "answer_with_vlm.revision=2",
    ]
    for text, key in (("localizer=x", "init_localizer.weights"), ("imported=blip", "import_scores.scores")):
        assert Cell("top_k", 8, text, "").settings_over("top_k")[-1].startswith(f"{key}=")
    assert Cell("top_k", 8, "localizer", "vlm").settings_over("top_k")[-1] == "chain.answerer=vlm"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--scorers", "clipp"), r"no such stage that makes frame scores.*did you mean 'clip'"),
        (("--scorers", "clip="), r"'clip=' has no name after clip="),
        (
            ("--scorers", "clip,select_keyframes.k=2"),
            r"\[select_keyframes\] is no section of clip; expected one of import_",
        ),
        (("--scorers", "clip,score_by_similarity.templat=x"), r"no key 'templat' .did you mean 'template'"),
        (("--answerers", "vml=x"), r"no answerer 'vml=x'.*did you mean 'vlm'"),
        (("--answerers", "served"), r"no answerer 'served'"),
        (("--scorers", "clip=a", "--weights", "b=/tmp"), r"the name 'b' is not used here; expected .*--weights a=PATH"),
    ],
)
def test_an_invalid_scorer_answerer_or_place_is_refused_before_any_build(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...], message: str
) -> None:
    assert main(arguments("sweep", demo, tmp_path / "store", "--selectors", "top_k", "--k", "1", *option)) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "store").exists()


def test_an_empty_name_in_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", SMALL, "--selectors", "top_k", "--k", "1", "--scorers", "", "--store", str(tmp_path / "store")])
    assert stopped.value.code == 2 and not (tmp_path / "store").exists()


def test_a_sweep_compares_clip_siglip_matching_and_the_localizer(
    demo: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("clip", "siglip"):
        write_tiny_embedder(tmp_path / name, name)
    write_tiny_matcher(tmp_path / "itm")
    scorers = ["localizer", "clip=clip", "clip=siglip", "itm=itm"]
    places = [word for name in ("clip", "siglip", "itm") for word in ("--weights", f"{name}={tmp_path / name}")]
    few = ("--set", "list_questions.limit=6")
    capsys.readouterr()
    command = arguments("sweep", demo, store, "--selectors", "top_k", "--k", "1", "--scorers", *scorers, *places, *few)
    assert main([*command, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [cell["scorer"] for cell in cells] == ["", *scorers] and not any(cell["problem"] for cell in cells)
    assert len({cell["metrics"] for cell in cells}) == len(cells)
    stages = [id.split("-")[0] for id in Store(store)]
    assert stages.count("embed_frames") == stages.count("score_by_similarity") == 2


def test_power_equals_a_simulation_of_mcnemars_test() -> None:
    # 20,000 draws of 1,000 questions, 20 % of them discordant, a true difference of 5 points: p < 0.05 in 93.7 %.
    assert power(PAIRED, 5) == pytest.approx(0.937, abs=0.02)
    assert power(replace(PAIRED, n_questions=100, n_only_a=8, n_only_b=12), 5) < 0.3
    assert power(PAIRED, 0.001) == pytest.approx(0.025, abs=0.01)  # as often as chance, on this side


def test_cells_are_compared_with_uniform_frames_and_share_artifacts(
    demo: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "sweep.md"
    command = arguments("sweep", demo, store, "--selectors", "top_k", "oracle", "--k", "1", "2", "-o", str(report))
    assert main(command) == 0
    text = report.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| uniform", "| top", "| oracle"))]
    assert len(rows) >= 6 and "Without numbers" not in text and "Unanswered, counted as wrong: " in text
    assert [(row[0].strip("| "), row[3]) for row in rows[:4]] == [
        ("uniform", "1"),
        ("uniform", "2"),
        ("top_k", "1"),
        ("top_k", "2"),
    ]
    stages = [id.split("-")[0] for id in Store(store)]
    assert stages.count("score_frames") == stages.count("extract_features") == 1
    finished = {id: Store(store).record(id).finished for id in Store(store)}
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [(cell["selector"], cell["k"]) for cell in cells[:4]] == [
        ("uniform", 1),
        ("uniform", 2),
        ("top_k", 1),
        ("top_k", 2),
    ]
    assert (
        cells[2]["metrics"] in finished
        and cells[2]["against_uniform"][0]["n_questions"] == cells[2]["headline"]["n_questions"]
    )
    assert {id: Store(store).record(id).finished for id in Store(store)} == finished
    assert main(["report", Path(SMALL).stem, "--store", str(store), "-o", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for name in ("uniform, k = 1", "top_k by localizer, k = 2", "oracle, k = 2"):
        assert f'<th scope="row">{name}</th>' in page
    assert "Against evenly spread frames" in page and "p, Holm" in page
    table = page.partition("p, Holm")[2].partition("</table>")[0]
    steps = re.findall(r'<th scope="row">(.+?)</th>', table)
    assert steps[0] == "uniform, k = 1 → top_k by localizer, k = 1, zero-shot" and len(steps) == 4
    powers = re.findall(r"(\d+) %(?: \||</td>)", table)
    assert powers == [re.findall(r"(\d+) % \|$", line)[0] for line in text.splitlines() if line.endswith("% |")]
    by_group = page.partition("By group of questions, in points")[2].partition("</table>")[0]
    of_groups = text.partition("## Minus uniform, by group")[2]
    names = of_groups.splitlines()[2].split(" | ")[4:]
    assert [name.strip(" |") for name in names] == re.findall(r'<th scope="col">(.+?)</th>', by_group)[1:] and names
    shown = re.findall(r"<td>([+-][\d.]+)", by_group)
    assert shown and shown == re.findall(r"(?<=\| )([+-][\d.]+)(?= [(|])", of_groups)
    tested = [cell["against_uniform"][0] for cell in cells if cell["selector"] != "uniform"]
    assert [f"{row['difference_points']:+.1f}" for row in tested] == re.findall(r"<td>([+-][\d.]+)</td>", table)


def test_equal_keyframes_of_several_selectors_are_answered_once(
    demo: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selectors = ("--selectors", "top_k", "q_frame", "--k", "2", "8")  # of 8 frames: each chooses all of them
    before = set(Store(store))
    assert main([*arguments("sweep", demo, store, *selectors), "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [cell["metrics"] for cell in cells if cell["k"] == 8] == 3 * [cells[1]["metrics"]]
    assert len({cell["metrics"] for cell in cells if cell["k"] == 2}) == 3
    assert [id.split("-")[0] for id in set(Store(store)) - before].count("answer_questions") == 4
    rows = [cell["against_uniform"][0] for cell in cells if cell["k"] == 8 and cell["against_uniform"]]
    assert [(row["difference_points"], row["n_only_a"], row["n_only_b"]) for row in rows] == 2 * [(0.0, 0, 0)]
    assert main(["report", Path(SMALL).stem, "--store", str(store), "-o", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for name in ("uniform, k = 8", "top_k by localizer, k = 8", "q_frame by localizer, k = 8"):
        assert f'<th scope="row">{name}</th>' in page
    by_row = {setting.row: setting for setting in reported_run(Store(store), Path(SMALL).stem).settings}
    assert by_row["top_k by localizer, k = 8"].scores and not by_row["uniform, k = 8"].scores


def test_a_failed_cell_is_printed_with_its_reason_and_exits_with_1(
    demo: Path, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cells = sweep.run_sweep

    def run_with_a_failed_cell(*of: Any) -> Iterator[sweep.CellRun]:
        for run in run_cells(*of):
            yield sweep.CellRun(run.cell, problem="its weights are broken") if run.cell.selector == "top_k" else run

    monkeypatch.setattr(sweep, "run_sweep", run_with_a_failed_cell)
    assert main(arguments("sweep", demo, store, "--selectors", "top_k", "--k", "1")) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "no numbers for top_k" in printed and "its weights are broken" in printed
