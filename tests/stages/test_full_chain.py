"""The full chain by the command on a few videos: trainings, pseudo-labels, and the evaluation of every selector."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from cache.lineage import ancestry
from cache.store import Store, remove_folder
from cli import main
from pipeline.engine.recipe import load
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.engine.steps import Run, RunOnly
from reports.summary import summary_markdown
from stages.all import STAGES
from stages.chain import full
from stages.evaluate import Metrics
from tests.stages.moment_world import places, write_world
from tests.stages.runs import built_since, records

pytestmark = pytest.mark.slow

ALL = '["oracle", "uniform", "random", "untrained", "pretrained", "refined"]'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "moments"
    write_world(folder)
    return folder


@pytest.fixture(scope="module")
def finished_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after one run with the default selectors; tests must not change it."""
    store = tmp_path_factory.mktemp("finished_run") / "store"
    assert sevila("run", world, store) == 0
    return store


@pytest.fixture
def store(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "store"))


def sevila(command: str, world: Path, store: Path, *more: str) -> int:
    return main([*command.split(), str(world / "full.toml"), *places(world, store), *more])


def table(printed: str) -> dict[str, list[str]]:
    """Return the cells of the results table by row name."""
    lines = printed[printed.index("\nkeyframes  ") + 1 :].split("\n\n")[0].splitlines()
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line.strip()) for line in lines)}


def test_every_setting_is_evaluated_zero_shot_by_vote_and_fine_tuned(finished_run: Path) -> None:
    built = Counter(record.stage for record in records(finished_run).values())
    # uniform, pre-trained and refined: each zero-shot, by vote, and fine-tuned
    assert built["answer_questions"] == built["evaluate"] == 9
    assert built["finetune_answerer"] == built["evaluate_localization"] == 3
    assert built["pretrain_localizer"] == built["refine_localizer"] == built["label_frames"] == 1
    assert built["select_keyframes"] == 6 and built["score_frames"] == 4
    assert built["list_questions"] == built["sample_frames"] == built["extract_features"] == 3
    for record in (record for record in records(finished_run).values() if record.stage == "finetune_answerer"):
        keyframes = records(finished_run)[record.inputs["keyframes"] or ""]
        assert records(finished_run)[keyframes.inputs["questions"] or ""].config["split"] == "train"


def test_a_second_run_prints_the_same_table_and_builds_nothing(
    store: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(records(store))
    assert sevila("run", world, store) == 0
    assert not built_since(before, store)
    cells = table(capsys.readouterr().out)
    assert cells.pop("keyframes") == ["zero-shot", "zero-shot, voting", "fine-tuned", "moment recall", "hit"]
    assert list(cells) == ["uniform", "pre-trained Localizer", "refined Localizer"]
    overall = {
        id: next(row["accuracy_percent"] for row in Metrics(Store(store), id).rows("metrics") if row["is_headline"])
        for id, record in records(store).items()
        if record.stage == "evaluate"
    }
    printed = sorted(float(cell.split()[0]) for row in cells.values() for cell in row[:3])
    assert printed == sorted(round(value, 1) for value in overall.values())


def test_the_page_of_a_run_has_its_table_artifacts_failures_and_next_commands(finished_run: Path, world: Path) -> None:
    where = {"annotations": [str(world / "questions.jsonl")], "videos": [str(world / "videos")]}
    store = Store(finished_run)
    sources = Sources(store.digests, where | {"weights": [f"tiny-blip2={world / 'tiny-blip2'}"]})
    recipe, run = load(str(world / "full.toml"), STAGES), RunContext(store, device="cpu", sources=sources)
    steps = Run(recipe, run, lambda id, stage, setting: None)
    results = full(recipe, steps, sources)
    page = summary_markdown(steps.artifacts, steps.settings, results)
    assert "| keyframes | zero-shot | zero-shot, voting | fine-tuned | moment recall | hit |" in page
    assert all(f"| `{id}` |" in page for id in records(finished_run))
    assert page.count("1 of 3 videos failed (1 empty):\n\n```\ntest2.mp4: empty") == 1
    assert "- Localizer, refined in round 1: loss" in page and "\nsevila compare evaluate-" in page

    one = RunOnly("answer_questions", recipe, run, False, lambda id, stage, setting: None)
    page = summary_markdown(one.walk(full, sources), one.settings)
    assert page.count("## First answers: ") == 9 and "## First answers: uniform, zero-shot, voting\n" in page
    assert "evaluate-" not in page and "\nsevila answers answer_questions-" in page


def test_every_selector_gets_a_row_in_the_order_of_the_paper(
    store: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", world, store, "--set", f"chain.selectors={ALL}") == 0
    cells = table(capsys.readouterr().out)
    assert list(cells)[1:] == [
        *("uniform", "random", "untrained Localizer", "pre-trained Localizer", "refined Localizer", "oracle")
    ]
    assert cells["oracle"][-1] == "66.7"  # all questions but those of the broken video


def test_questions_unanswered_only_by_the_oracle_are_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (world / "questions.jsonl").read_text().splitlines()]
    first = next(row for row in rows if row["split"] == "test")
    first["moments"] = [[0.1, 0.2]]  # between two sampled frames
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("--annotations", f"{tmp_path / 'questions.jsonl'}", "--set", 'chain.selectors=["uniform", "oracle"]')
    assert sevila("run", world, tmp_path / "store", *settings) == 0
    assert "6 questions (2; oracle 3 unanswered, which counts as wrong)" in capsys.readouterr().out
    assert sevila("results", world, tmp_path / "store", *settings, "--seeds", "0") == 0
    assert "2; oracle 3 of them unanswered, which counts as wrong" in capsys.readouterr().out


def test_another_refinement_rebuilds_only_what_depends_on_it(store: Path, world: Path) -> None:
    before = set(records(store))
    assert sevila("run", world, store, "--set", "refine_localizer.learning_rate=1e-4") == 0
    after = built_since(before, store)
    assert not {"extract_features", "label_frames", "pretrain_localizer", "list_questions"} & after.keys()
    assert after["refine_localizer"] == 1 and after["score_frames"] == 2 and after["finetune_answerer"] <= 1


def test_broken_videos_are_reported_and_count_as_wrong_in_every_setting(
    store: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", world, store) == 0
    printed = capsys.readouterr().out
    assert "test2.mp4: empty" in printed and "train3.mp4: empty" in printed
    assert "6 questions (2 unanswered, which counts as wrong)" in printed
    for id, record in records(store).items():
        if record.stage == "evaluate":
            assert Metrics(Store(store), id).rows("metrics")[0]["n_unanswered"] == 2


def test_stages_that_no_selector_needs_are_not_built(world: Path, tmp_path: Path) -> None:
    assert sevila("run", world, tmp_path, "--set", 'chain.selectors=["uniform"]') == 0
    built = built_since(set(), tmp_path)
    needless = {"init_localizer", "pretrain_localizer", "score_frames", "label_frames", "refine_localizer"}
    assert not needless & built.keys() and built["list_questions"] == 2


def test_two_rounds_of_refinement_keep_and_evaluate_both(
    store: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(records(store))
    assert sevila("run", world, store, "--set", "chain.iterations=2") == 0
    cells = table(capsys.readouterr().out)
    assert list(cells)[-2:] == ["refined Localizer", "refined Localizer, round 2"]
    assert built_since(before, store)["label_frames"] == 1
    second = next(r for id, r in records(store).items() if r.stage == "label_frames" and id not in before)
    labelled_by = records(store)[second.inputs["answerer"] or ""]
    assert labelled_by.stage == "finetune_answerer"


def test_plan_of_an_empty_store_names_every_step_and_writes_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("plan", world, tmp_path / "store", "--set", "chain.iterations=2") == 0
    *lines, counts = capsys.readouterr().out.splitlines()
    stages = Counter(line.split()[1] for line in lines)
    assert stages["refine_localizer"] == stages["label_frames"] == 2 and stages["answer_questions"] == 12
    assert counts == f"0 exists, {len(lines)} build, 0 blocked"
    assert any("(refined Localizer, round 2, zero-shot, voting)" in line for line in lines)
    assert not (tmp_path / "store" / "artifacts").exists()


def test_plan_without_data_names_missing_data(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(world / "full.toml"), "--store", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "--annotations plain=PATH" in printed and "0 exists, 1 build" not in printed


def test_a_stage_with_several_occurrences_runs_for_each_with_inputs(
    store: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("stage score_frames", world, store, "--set", "score_frames.instruction=information_needed") == 0
    paths = capsys.readouterr().out.splitlines()
    assert len(paths) == len(set(paths)) == 4 and all((Path(path) / "record.json").exists() for path in paths)


def test_occurrences_of_a_stage_without_inputs_are_reported(
    store: Path, world: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    refined = next(id for id, record in records(store).items() if record.stage == "refine_localizer")
    for id in [id for id in Store(store) if refined in ancestry(Store(store), id)]:
        remove_folder(Store(store).own(id))
    assert sevila("stage score_frames", world, store, "--again") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert caplog.text.count("not built: score_frames needs localizer: refine_localizer has not been run") == 2


def test_a_stage_without_its_inputs_names_the_stage_to_run(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("stage finetune_answerer", world, tmp_path) == 1
    assert "finetune_answerer needs questions: list_questions has not been run on this" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("chain.training_split=test", "is the split that is evaluated"),
        ("chain.training_split=all", "questions of it are evaluated too"),
        ("chain.pretraining_split=test", "[chain] pretraining_split = 'test' is the split that is evaluated"),
        ("chain.pretraining_split=all", "[chain] pretraining_split = 'all': 6 questions of it are evaluated too"),
        ("chain.pretraining_dataset=nextq", "did you mean 'nextqa'"),
        ("chain.iterations=0", "[chain] iterations = 0"),
        ('chain.selectors=["uniform", "uniform"]', "list at least one selector, and each only once"),
        ('chain.selectors=["best"]', "[chain] selectors = ['best']: no selector is called 'best'"),
        ("chain.kinds=full", "[chain] has no key 'kinds' (did you mean 'kind'?)"),
    ],
)
def test_an_invalid_chain_is_refused_before_any_work(
    world: Path, tmp_path: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", world, tmp_path, "--set", setting) == 1
    assert message in capsys.readouterr().err
    assert not {"sample_frames", "answer_questions"} & {record.stage for record in records(tmp_path).values()}


def test_overlapping_splits_are_refused_before_a_backbone_is_trained(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "chain.backbone=trained", "--set", "chain.training_split=all")
    assert sevila("run", world, tmp_path, *settings) == 1
    assert "questions of it are evaluated too" in capsys.readouterr().err
    assert {record.stage for record in records(tmp_path).values()} == {"list_questions"}


@pytest.mark.parametrize("kind", ["forward", "full"])
def test_both_chains_can_train_the_backbone(
    world: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", f"chain.kind={kind}", "--set", "chain.backbone=trained")
    assert sevila("plan", world, tmp_path, *settings) == 0
    planned = [line.split()[1] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert planned.count("train_backbone") == 1 and "import_backbone" not in planned


@pytest.mark.parametrize("weights", ["", "released"])
def test_pretraining_from_a_checkpoint_is_reported(
    world: Path, tmp_path: Path, weights: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert sevila("plan", world, tmp_path, "--set", f"init_localizer.weights={weights}") == 0
    assert ("not from BLIP-2's own Q-Former" in caplog.text) == bool(weights)


def test_pretrained_and_untrained_selectors_need_a_pretraining_dataset(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "chain.pretraining_dataset=", "--set", 'chain.selectors=["untrained", "pretrained"]')
    assert sevila("run", world, tmp_path, *settings) == 1
    assert "name a pretraining_dataset" in capsys.readouterr().err


def without_moments(world: Path, folder: Path) -> tuple[str, str]:
    """Return the option for a copy of the questions without moments."""
    rows = [json.loads(line) for line in (world / "questions.jsonl").read_text().splitlines()]
    for row in rows:
        del row["moments"]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "--annotations", f"{folder / 'questions.jsonl'}"


@pytest.mark.parametrize(
    ("selectors", "message"),
    [('["oracle"]', "leave oracle out"), ('["pretrained"]', "knows no moments to pre-train the Localizer on")],
)
def test_selectors_that_need_moments_are_refused_without_them(
    world: Path, tmp_path: Path, selectors: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (*without_moments(world, tmp_path), "--set", f"chain.selectors={selectors}")
    assert sevila("run", world, tmp_path / "store", *more) == 1
    assert message in capsys.readouterr().err
    assert "sample_frames" not in {record.stage for record in records(tmp_path / "store").values()}


def test_refinement_needs_no_moments(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A released checkpoint is pre-trained, and most data sets have no moments."""
    settings = ("--set", "chain.pretraining_dataset=", "--set", 'chain.selectors=["refined"]')
    assert sevila("run", world, tmp_path / "store", *without_moments(world, tmp_path), *settings) == 0
    cells = table(capsys.readouterr().out)
    assert cells["keyframes"] == ["zero-shot", "zero-shot, voting", "fine-tuned"]
    assert "pretrain_localizer" not in {record.stage for record in records(tmp_path / "store").values()}


def test_the_forward_chain_reuses_artifacts_of_the_full_chain(store: Path, world: Path) -> None:
    before = set(records(store))
    settings = ("--set", "chain.kind=forward", "--set", "select_keyframes.method=uniform")
    assert sevila("run", world, store, *settings) == 0
    assert not built_since(before, store)


def test_the_results_of_two_seeds_have_the_numbers_of_the_metrics(
    store: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "docs" / "report.md"
    assert sevila("results", world, store, "--seeds", "0", "1", "--json", "-o", str(written)) == 0
    text = written.read_text()
    as_json = json.loads(capsys.readouterr().out)
    assert [each["seed"] for each in as_json] == [0, 1] and as_json[0]["results"][0]["keyframes"] == "uniform"
    assert "seeds 0, 1" in text and "sevila results" in text and "--seeds 0 1" in text
    shown_by_seed: list[dict[tuple[str, str], float]] = []
    for seed in (0, 1):
        [cells] = re.findall(rf"Seed {seed}:\n\n(\| keyframes \| answered .*?)\n\n", text + "\n\n", re.DOTALL)
        [shown] = re.findall(rf"Seed {seed}:\n\n(\| keyframes \| zero-shot .*?)\n\n", text, re.DOTALL)
        heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()]
        values = {(row[0], head): cell for row in rows for head, cell in zip(heads[1:], row[1:], strict=True)}
        for line in cells.splitlines()[2:]:
            row, column, id = (cell.strip() for cell in line.strip("|").split("|"))
            headline = next(r for r in Metrics(Store(store), id.strip("`")).rows("metrics") if r["is_headline"])
            assert values[row, column] == f"{headline['accuracy_percent']:.1f}"
        shown_by_seed.append({cell: float(value) for cell, value in values.items()})
    claims = re.findall(
        r"^- (Zero-shot|Fine-tuned) accuracy: (.*) above (.*): \*\*(.*?)\*\*, in (\d) of 2 .*; (\S+) p", text, re.M
    )
    assert len(claims) == 4  # two neighbouring pairs of rows, zero-shot and fine-tuned
    for who, better, worse, verdict, n_held, mean in claims:
        differences = [values[better, who.lower()] - values[worse, who.lower()] for values in shown_by_seed]
        assert sum(difference > 0 for difference in differences) == int(n_held)
        assert verdict == {0: "does not hold", 1: "holds in some seeds only", 2: "holds"}[int(n_held)]
        assert abs(sum(differences) / 2 - float(mean)) < 0.11  # both are rounded
    before = set(records(store))
    assert sevila("results", world, store, "--seeds", "0", "1", "--name", "sweep") == 0
    assert not built_since(before, store)
    assert text.split("## All settings")[1] == capsys.readouterr().out.split("## All settings")[1].rstrip("\n") + "\n"
    assert main(["compare", "sweep", "sweep", "--json", "--store", str(store)]) == 0
    compared = {row["name"]: row["a_percent"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert len(compared) == 18  # three settings of three selectors with two seeds
    assert f"{compared['seed 1: uniform, fine-tuned']:.1f}" == f"{shown_by_seed[1]['uniform', 'fine-tuned']:.1f}"


def test_results_refuse_a_forward_chain(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sevila("results", world, tmp_path, "--set", "chain.kind=forward") == 1
    assert "--set chain.kind=full" in capsys.readouterr().err


def test_results_refuse_a_repeated_seed(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sevila("results", world, tmp_path, "--seeds", "1", "0", "1") == 1
    assert "--seeds 1 0 1: expected each seed once" in capsys.readouterr().err


def test_full_chain_of_moment_queries_pretrains_the_localizer_before_it_retrieves(
    world: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(records(store))
    settings = ("--set", "score_frames.prompt=moment", "--set", "pretrain_localizer.prompt=moment")
    assert sevila("run", world, store, *settings) == 0
    stages = ("pretrain_localizer", "score_frames", "select_keyframes", "evaluate_localization")
    assert built_since(before, store) == Counter([*stages, "retrieve_moments", "evaluate_moments"])
    scores = next(
        record for id, record in records(store).items() if id not in before and record.stage == "score_frames"
    )
    assert str(scores.inputs["localizer"]).startswith("pretrain_localizer-")
    assert "R1" in capsys.readouterr().out


def test_training_on_the_evaluated_moments_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "score_frames.prompt=moment", "--set", "chain.training_split=test")
    assert sevila("run", world, tmp_path, *settings) == 1
    assert "training_split = 'test' is the split that is evaluated" in capsys.readouterr().err


def test_the_summary_names_all_metrics_and_answers_takes_the_newest_run(
    finished_run: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sevila("run", world, finished_run, "-v") == 0
    printed = capsys.readouterr().out.split("metrics of each setting")[1]
    assert all(id in printed for id, record in records(finished_run).items() if record.stage == "evaluate")
    assert main(["answers", "answer", "--store", str(finished_run)]) == 0
    answers = [record for record in records(finished_run).values() if record.stage == "answer_questions"]
    assert capsys.readouterr().err.strip() == max(answers, key=lambda record: record.finished).id
