"""`sevila benchmark` on the small world: nights, regressions and errors."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import MachineError, SevilaError
from cache.store import Store
from cli import main
from pipeline.benchmarks.matrix import available_matrices, load_matrix
from pipeline.engine.recipe import load
from pipeline.metrics.comparison import PairedRow
from pipeline.training.launch import run_in_subprocess
from reports.benchmark import run_night
from reports.benchmark_history import History, NightRow
from reports.benchmark_judging import NightFigure, NightTest, corrected
from stages.all import STAGES
from tests.small_world import SMALL
from tests.stages.runs import as_answered, places, sevila, with_other_weights

# Speed and memory of so small a night are noise; the test of NightFigure covers them.
TOLERANT = "keep_nights = 1\ntolerance = {throughput_percent = 99.9, peak_memory_percent = 1e6}\n"
WRONG = ["select_keyframes.kk=1"]


def write_matrix(folder: Path, **settings: list[str]) -> Path:
    lines = [f"{name} = {changes!r}" for name, changes in settings.items()]
    path = folder / "small-nights.toml"
    path.write_text("\n".join([TOLERANT, f'[recipes."{SMALL}"]', *lines]))
    return path


def benchmark(matrix: Path, world: Path, store: Path, *more: str) -> int:
    return main(["benchmark", str(matrix), *places(world, store), *more])


def history(store: Path) -> list[NightRow]:
    return History(store / "benchmarks" / "small-nights").read()


@pytest.fixture(scope="module")
def world(demo: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_answered(demo, finished, tmp_path_factory.mktemp("right") / "world")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_matrix(tmp_path_factory.mktemp("matrix"), chosen=[], uniform=["select_keyframes.method=uniform"])


@pytest.fixture(scope="module")
def first_night(finished: Path, world: Path, matrix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after the first night; tests must not change it."""
    store = Path(shutil.copytree(finished, tmp_path_factory.mktemp("nights") / "store"))
    assert sevila("run", world, store) == 0
    assert benchmark(matrix, world, store) == 0
    return store


@pytest.fixture
def nights(first_night: Path, tmp_path: Path) -> Path:
    """A copy of that store, which a test may change."""
    return Path(shutil.copytree(first_night, tmp_path / "store"))


def test_a_night_rebuilds_the_stages_after_the_features_in_its_own_store(first_night: Path) -> None:
    rows = history(first_night)
    assert [(row.setting, row.status) for row in rows] == [("chosen", "ok"), ("uniform", "ok")]
    assert list(rows[0].stages) == ["score_frames", "select_keyframes", "answer_questions", "evaluate"]
    assert list(rows[1].stages) == ["select_keyframes", "answer_questions", "evaluate"]
    assert rows[0].metric_percent == 80.0 and rows[0].n_questions == 30 and rows[0].unanswered_percent == 20.0
    assert all(row.questions_per_second and row.peak_memory_bytes and row.host and row.libraries for row in rows)
    (night,) = (first_night / "benchmarks" / "small-nights" / "nights").iterdir()
    rebuilt = {id.rsplit("-v", 1)[0] for id in Store(night)}
    assert rebuilt == {"score_frames", "select_keyframes", "answer_questions", "evaluate"}
    assert Store(first_night).exists(rows[0].answers), "the night rebuilds artifacts of the store"


def test_an_equal_night_is_no_regression_and_the_trend_shows_both(
    nights: Path, world: Path, matrix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(matrix, world, nights) == 0
    output = capsys.readouterr().out
    assert "no regression" in output and output.count("+0.0") == 4 and "first night" not in output
    assert (nights / "benchmarks" / "small-nights" / "trend.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((nights / "benchmarks" / "small-nights" / "nights").iterdir())) == 1, "keep_nights is 1"
    assert benchmark(matrix, world, nights, "--history") == 0
    trend = capsys.readouterr().out
    assert trend.count("80.0") == 2 and "small uniform" in trend


def test_other_weights_under_the_same_name_are_reported_as_a_regression(
    nights: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = with_other_weights(world, tmp_path / "worse")
    assert sevila("run", worse, nights) == 0
    assert benchmark(write_matrix(tmp_path, chosen=[]), worse, nights) == 1
    output = capsys.readouterr().out
    assert "regression: small chosen: accuracy" in output and "80.0 % on the previous and best night" in output


def test_a_changed_recipe_starts_a_new_series_and_a_failed_setting_stops_no_other(
    nights: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["sample_frames.frames=5"]
    long_ago = [replace(row, night="2020-02-03T03-00-00.000Z") for row in history(nights)]
    History(nights / "benchmarks" / "small-nights").path.unlink()
    History(nights / "benchmarks" / "small-nights").append(long_ago)
    matrix = write_matrix(tmp_path, missing=missing, wrong=WRONG, chosen=["select_keyframes.k=1"])
    assert benchmark(matrix, world, nights) == 1
    output = capsys.readouterr().out
    assert "no regression, 2 failed" in output
    assert "sample_frames has not been run on this" in output and f"sevila run {SMALL} --set {missing[0]}" in output
    assert "did you mean 'k'" in output
    assert "small chosen: the recipe has changed since 2020-02-03 03:00" in output
    assert "the last run was" in output and "the nights between were missed" in output
    before, tonight = history(nights)[:2], history(nights)[2:]
    assert [row.status for row in tonight] == ["failed", "failed", "ok"]
    assert before[0].recipe_fingerprint != tonight[-1].recipe_fingerprint


def test_a_killed_subprocess_is_a_machine_error() -> None:
    with pytest.raises(MachineError, match="its process was ended by SIGKILL"):
        run_in_subprocess(kill_self)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_matrix_in_use_is_refused_with_its_process(
    nights: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_matrix(tmp_path, wrong=WRONG)
    paths = {"annotations": [str(world / "questions.csv")], "videos": [str(world / "videos")], "weights": []}
    statuses: list[int] = []
    run_night(
        load_matrix(str(path)), Store(nights), paths, on_row=lambda row: statuses.append(benchmark(path, world, nights))
    )
    assert statuses == [1]
    assert f"is being run by process {os.getpid()} on " in capsys.readouterr().err


def test_a_damaged_history_is_reported_and_set_aside(
    nights: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = nights / "benchmarks" / "small-nights" / "history.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    damaged = path.read_bytes()
    matrix = write_matrix(tmp_path, wrong=WRONG)
    assert benchmark(matrix, world, nights, "--history") == 1
    assert "history.parquet" in capsys.readouterr().err
    assert benchmark(matrix, world, nights) == 1
    assert "the history was damaged and is set aside" in capsys.readouterr().out
    (aside,) = path.parent.glob("history.damaged-*.parquet")
    assert aside.read_bytes() == damaged and len(history(nights)) == 1


@pytest.mark.parametrize("name", available_matrices())
def test_settings_of_packaged_matrices_fit_their_recipes(name: str) -> None:
    for recipe, settings in load_matrix(name).recipes.items():
        for changes in settings.values():
            load(recipe, STAGES, changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alhpa = 0.1", "no key 'alhpa' (did you mean 'alpha'?)"),
        ("tolerance = {throughput = 1}", "(did you mean 'throughput_percent'?)"),
        ("alpha = 2", "alpha = 2"),
        ("[recipes.demo]", "has no setting"),
        ("description = 'nothing'", "recipes"),
    ],
)
def test_an_invalid_matrix_is_refused_with_the_key_at_fault(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text + ("" if "recipes" in text or "nothing" in text else "\n[recipes.demo]\nas-it-is = []"))
    with pytest.raises(SevilaError) as error:
        load_matrix(str(path))
    assert message in str(error.value)


def test_a_p_value_of_zero_is_a_regression() -> None:
    row = PairedRow("overall", "all", True, 4000, 75.0, 25.0, -50.0, -51.0, -49.0, 2000, 0, p_value=0.0)
    (test,) = corrected([NightTest("2026-11-21T03-00-07.123Z", row)])
    assert test is not None and test.is_worse(alpha=0.05)


@given(st.floats(1e-3, 1e12), st.floats(0.1, 99), st.floats(0.01, 0.99))
def test_a_night_is_worse_only_beyond_the_tolerance(usual: float, tolerance: float, share: float) -> None:
    within, beyond = tolerance * share / 100, tolerance * (1 + share) / 100
    for more_is_better, sign in ((True, -1), (False, 1)):
        for change, is_worse in ((within, False), (beyond, True), (-beyond, False)):
            now = usual * (1 + sign * change)
            assert NightFigure("x", now, usual, 3, tolerance, more_is_better).is_worse == is_worse
            assert not NightFigure("x", now, usual, 2, tolerance, more_is_better).is_worse, (
                "two nights are too few to compare with"
            )
