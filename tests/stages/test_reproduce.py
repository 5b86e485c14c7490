"""`sevila reproduce` on a few small videos: every table runs, rows share work, and missing data is listed on a page."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from cache.names import known_uses
from cache.record import Record
from cache.store import Store
from cli import main
from pipeline.engine.sources import VideoFiles
from pipeline.engine.stage import RunContext
from pipeline.recipes.opening import Request
from reports.estimates import Estimate, difference, over_seeds, tally
from reports.missing_inputs import needs_text
from reports.paper import PaperColumn, PaperRow, PaperTable, read_paper
from reports.reproduce import Reproduction, RowRun, Subject
from reports.reproduce_text import table_text
from tests.small_world import SMALL
from tests.stages.moment_world import places, write_world
from tests.stages.runs import artifact, records
from tests.tiny_scorers import write_tiny_embedder

CLIP = "openai/clip-vit-large-patch14"


class Reproduced(NamedTuple):
    world: Path
    store: Path
    zero_shot: list[Record]  # of table2 alone
    tables: str


def reproduce(world: Path, store: Path, *names: str) -> int:
    options = ["--dataset", str(world / "full.toml"), "--seeds", "3", "--processes", "1", "--quiet"]
    options += ["--weights", f"{CLIP}={world / 'clip'}", "--scores", f"moment-detr={world / 'scores.jsonl'}"]
    return main(["reproduce", *names, *options, *places(world, store)])


def write_spans(world: Path, store: Path, keyframes: str) -> None:
    """Write windows in the format of Moment-DETR, converted to scores of the sampled frames."""
    question_ids = [f"test{video}.mp4#{number}" for video in range(3) for number in range(2)]
    spans = [{"qid": id, "pred_relevant_windows": [[0.5, 2.0, 0.9]]} for id in question_ids]
    (world / "spans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spans))
    options = ["--store", str(store), "-o", str(world / "scores.jsonl")]
    assert main(["moments", "scores", str(world / "spans.jsonl"), keyframes, *options]) == 0


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    folder = tmp_path_factory.mktemp("reproduced")
    world, store = folder / "world", folder / "store"
    write_world(world)
    write_tiny_embedder(world / "clip", "clip")
    pages = []
    for number, name in enumerate(("table2", "all")):
        page = folder / f"{number}.md"
        assert reproduce(world, store, name, "-o", str(page)) == 0
        pages.append(page.read_text())
        if name == "table2":
            zero_shot = list(records(store).values())
            write_spans(world, store, next(record.id for record in zero_shot if record.stage == "select_keyframes"))
    return Reproduced(world, store, zero_shot, pages[-1])


def cells(page: str, table: str) -> dict[tuple[str, str], str]:
    """The measured numbers of a table by row and figure."""
    section = page.split(f"\n## {table}: ")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    return {(row[0], row[1].removeprefix("full, ")): row[3] for row in rows[2:] if len(row) == 5}


@pytest.mark.slow
def test_every_runnable_row_has_a_number_and_other_rows_state_what_is_missing(
    reproduced: Reproduced,
) -> None:
    for name, table in read_paper().tables.items():
        measured = cells(reproduced.tables, name)
        for row in table.rows:
            numbers = {figure: cell for (of_row, figure), cell in measured.items() if of_row == row.name}
            if row.unavailable:
                assert all(cell == f"not available here: {row.unavailable}" for cell in numbers.values())
            elif "chain.pretraining_dataset=timed_text" in row.settings:
                assert numbers == {"accuracy": "missing"}
            else:
                assert list(numbers) == table.figures
                assert all(re.match(r"[\d.]+", cell) for cell in numbers.values()), (name, row.name, numbers)
    assert "annotations timed_text" in reproduced.tables.split("## Not measured")[1]


@pytest.mark.slow
def test_a_zero_shot_table_trains_only_the_localizer(
    reproduced: Reproduced,
) -> None:
    stages = Counter(record.stage for record in reproduced.zero_shot)
    assert stages["pretrain_localizer"] == 1 and not stages["finetune_answerer"] and not stages["label_frames"]
    assert stages["extract_features"] == 2  # the evaluated split's and the moments'
    assert stages["answer_questions"] == 3


@pytest.mark.slow
def test_tables_share_artifacts_and_a_rerun_builds_nothing(
    reproduced: Reproduced, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = Counter(record.stage for record in records(reproduced.store).values())
    # rows with other numbers of frames or keyframes, or other prompts, train nothing
    assert stages["pretrain_localizer"] == 2  # of one frame, and of four
    assert stages["refine_localizer"] == 5  # rounds 1, 2 and 3, without pre-training, and of four frames
    assert stages["train_selector"] == 2 and stages["score_by_selector"] == 2  # table 6 is zero-shot
    assert stages["import_backbone"] == stages["init_answerer"] == 1
    before = set(records(reproduced.store))
    capsys.readouterr()
    page = ["-o", str(tmp_path / "page.md"), "--json"]
    assert reproduce(reproduced.world, reproduced.store, "table3", "table7", *page) == 0
    numbers = json.loads(capsys.readouterr().out)["tables"]
    assert {number["table"] for number in numbers} == {"table3", "table7"}
    assert all(number["measured"]["value"] >= 0 for number in numbers if number["state"] == "measured")
    assert any(number["state"] == "measured" for number in numbers)
    assert set(records(reproduced.store)) == before
    for table in ("table3", "table7"):
        assert cells((tmp_path / "page.md").read_text(), table) == cells(reproduced.tables, table)


@pytest.mark.slow
def test_a_run_of_the_recipe_reuses_the_artifacts_of_the_tables(
    reproduced: Reproduced, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", str(reproduced.world / "full.toml"), "--seed", "3", *places(reproduced.world, reproduced.store)]
    assert main(command) == 0
    for line in capsys.readouterr().out.splitlines():
        if re.search(r"\(.*(zero-shot|fine-tuned)\)$", line) and "voting" not in line:
            assert line.startswith("exists"), line


@pytest.mark.slow
def test_any_frame_accuracy_is_at_least_the_voting_accuracy(reproduced: Reproduced) -> None:
    measured = cells(reproduced.tables, "table9")
    for row in ("zero-shot", "fine-tuned"):
        voting, any_frame = (float(measured[row, figure].split()[0]) for figure in ("accuracy", "any frame"))
        assert any_frame >= voting


@pytest.mark.slow
def test_the_cost_table_lists_stages_and_their_total(reproduced: Reproduced) -> None:
    section = reproduced.tables.split("\n## table15: ")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    figures = [line for line in lines if len(line) == 6 and line[0] not in ("stage", "---")]
    seconds = {(line[0], line[1]): float(line[2]) for line in figures}
    for row in ("Answerer alone, uniform frames", "SeViLA"):
        parts = [value for (stage, of_row), value in seconds.items() if of_row == row and stage != "total"]
        assert sum(parts) == pytest.approx(seconds["total", row], abs=1e-3)
    assert ("score_frames", "SeViLA") in seconds and ("score_frames", "Answerer alone, uniform frames") not in seconds
    parameters = [
        float(cell) for (_, figure), cell in cells(reproduced.tables, "table15").items() if figure == "parameters"
    ]
    assert 0 < parameters[0] < parameters[1]  # the Localizer's Q-Former


def test_reproduce_without_data_prints_one_page_of_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "all", "--store", str(tmp_path / "store")]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) < 60
    for pattern in (
        r"annotations nextqa +splits train, val +https://",
        r"videos nextqa +at most 4,440 clips; [\d,]+ GB of features",
        r"weights Salesforce/blip2-flan-t5-xl +15\.8 GB +https://",
        r"weights sevila-pretrained +0\.8 GB +https://",
        r"table3 +[\d.]+\n",
        r"all together, with shared steps once +[\d.]+\n",
        r"--annotations NAME=PATH",
    ):
        assert re.search(pattern, page), pattern
    hours = [float(line.split()[-1]) for line in page.splitlines() if re.match(r"table\d", line)]
    together = float(re.findall(r"shared steps once +([\d.]+)", page)[0])
    assert max(hours) < together < sum(hours)
    assert not records(tmp_path / "store")


def test_only_a_plan_uses_places_remembered_by_the_store(
    demo: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no sevila.toml
    row, subject = PaperRow(name="any", keyframes="forward"), Subject(SMALL, is_own=True)
    sources = {"annotations": [str(demo / "questions.csv")], "videos": [str(demo / "videos")]}
    sources["weights"] = [f"tiny-blip2={demo / 'tiny-blip2'}"]
    for given, plan_only, is_measured in (({}, True, True), ({}, False, False), (sources, False, True)):
        rows = Reproduction(Request("", (), None, given), RunContext(Store(store)), plan_only)
        of_row = rows.measure(row, subject)
        assert of_row.is_measured == is_measured, of_row.problem
    steps, pinned = of_row.steps, known_uses(Store(store))[0]
    assert {step.artifact.id for step in steps} <= set(pinned)  # even if all are reused


@pytest.mark.slow
def test_a_plan_runs_nothing_and_shows_stored_numbers(
    reproduced: Reproduced, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for store, cell in ((reproduced.store, "16.7 (0.0 - 50.0)"), (tmp_path / "store", "not run")):
        before = set(records(store))
        capsys.readouterr()
        assert reproduce(reproduced.world, store, "table2", "--plan") == 0
        assert set(cells(capsys.readouterr().out, "table2").values()) == {cell}
        assert {id.split("-")[0] for id in set(records(store)) - before} <= {"list_questions"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tabel3", "no table 'tabel3' to reproduce (did you mean 'table3'?)"),
        ("table3 --dataset nextq", "did you mean 'nextqa'?"),
        (
            "table3 --dataset qvhighlights",
            "none of these tables has a column for these data sets; expected one of nextqa, star",
        ),
        ("table3 --set select_keyframes.kk=2", "has no key 'kk'"),
    ],
)
def test_invalid_arguments_are_refused_before_any_row_runs(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *arguments.split(), "--store", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_two_recipes_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = [tmp_path / folder / "own.toml" for folder in ("a", "b")]
    for recipe in recipes:
        recipe.parent.mkdir()
        recipe.write_text('[list_questions]\ndataset = "plain"\n')
    options = [word for recipe in recipes for word in ("--dataset", str(recipe))]
    assert main(["reproduce", "table2", *options, "--store", str(tmp_path / "store")]) == 1
    assert "has the same name, 'own'; rename one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "reproduce table2 --dataset",
        "reproduce table2 --annotations",
        "sweep --selectors top_k --k 1 --",
        "sweep plain --selectors top_k --k 1 --annotations",
    ],
)
def test_the_page_does_not_overwrite_an_input_file(command: str, tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text('[list_questions]\ndataset = "plain"\n')
    options = ["-o", str(recipe), "--store", str(tmp_path / "store")]
    first, *rest = command.split()
    with pytest.raises(SystemExit) as stopped:
        main([first, *options, *rest, str(recipe)])
    assert stopped.value.code == 2 and recipe.read_text().startswith("[list_questions]")


@pytest.mark.parametrize(
    ("table", "row", "published"),
    [
        ("table1", "SeViLA, Localizer refined", (69.4, 74.2, 81.3, 73.8, 64.9, 83.6, 61.6, 68.9)),
        ("table3", "zero-shot, 32 uniform frames", (54.7, 56.7, 67.8, 57.7, 42.8, 67.0, 33.2, 54.0)),
        ("table4", "SeViLA's Localizer", (54.5, 36.5, 32.3)),
        ("table8", "Localizer, then uniform", (72.3,)),
        ("table9", "fine-tuned", (70.1, 79.7, 51.8, 72.2, 79.6, 86.4, 54.5, 69.0, 67.0, 79.1)),
        ("table15", "SeViLA", (7.98, 3.28, 4.2)),
    ],
)
def test_published_numbers_equal_the_paper(table: str, row: str, published: tuple[float, ...]) -> None:
    rows = {each.name: each for each in read_paper().tables[table].rows}
    assert rows[row].published == published


def test_numbers_repeated_in_several_tables_agree() -> None:
    tables = read_paper().tables
    of_ablation = {(row.keyframes, row.answered): row.published for row in tables["table3"].rows if not row.evaluated}
    n_equal = 0
    for name in ("table1", "table2"):
        for row in tables[name].rows:
            if (row.keyframes, row.answered) in of_ablation and not row.settings:
                assert of_ablation[row.keyframes, row.answered] == row.published
                n_equal += 1
    assert n_equal == 5


def test_the_interval_over_seeds_is_students_t() -> None:
    mean = over_seeds([Estimate(60.0, 55.0, 65.0), Estimate(62.0, 57.0, 67.0), Estimate(64.0, 59.0, 69.0)])
    assert mean is not None and mean.value == 62.0 and mean.low is not None
    assert mean.value - mean.low == pytest.approx(4.302653 * 2 / 3**0.5, rel=1e-6)
    assert over_seeds([Estimate(60.0, 55.0, 65.0)]) == Estimate(60.0, 55.0, 65.0) and over_seeds([]) is None
    assert difference(Estimate(60.0, 55.0, 65.0), 62.4).high == pytest.approx(2.6)
    assert tally([Estimate(1.0, -1.0, 2.0), Estimate(2.0, 1.0, 3.0), Estimate(-3.0, -4.0, -2.0)]) == (2, 1)


def test_seeds_with_equal_metrics_count_as_one_run(finished: Path) -> None:
    metrics = artifact(finished, "metrics")
    row = PaperRow(name="any", keyframes="uniform", published=(60.0,))
    table = PaperTable(title="t", columns=(PaperColumn(name="c", dataset=SMALL),), rows=(row, row), note="")
    of_seeds = [RowRun(Subject(SMALL, seed), metrics=metrics) for seed in (1, 2, 3)]
    alone, several = (table_text("t", table, [runs, runs]) for runs in (of_seeds[:1], of_seeds))
    assert several == alone and re.search(r"\| \d+\.\d \(\d+\.\d - \d+\.\d\) \|", alone)


def test_missing_videos_of_a_custom_recipe_are_listed() -> None:
    missing = [VideoFiles(None, "not here", source="videos plain questions-1")]
    run = RowRun(Subject("mine.toml", 3, is_own=True), missing=missing, problem="not here")
    assert re.search(r"^videos plain +named ", needs_text(read_paper(), {"table2": [run]}), re.MULTILINE)
