"""`import sevila`: recipes, tables and models from Python, on the demo data set and its tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch

import sevila
from stages.answer_questions import Answers
from stages.extract_features import Features
from stages.list_questions import Questions
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.select_keyframes import Keyframes
from tests.small_world import SMALL
from tests.stages.runs import artifact

QUESTION, OPTIONS = "What colour is the square?", ["red", "green"]


def experiment(demo: Path, store: Path, **more: Any) -> sevila.Experiment:
    places = {"annotations": demo / "questions.csv", "videos": demo / "videos"}
    weights = {"tiny-blip2": demo / "tiny-blip2"}
    return sevila.load(SMALL, **places, weights=weights, store=store, device="cpu", **more)


def pixels(store: Path, video_id: str, rows: list[int]) -> torch.Tensor:
    return torch.from_numpy(artifact(store, "frames").open().read(video_id, rows))


def test_a_named_run_from_python_reuses_artifacts_of_the_command(demo: Path, store: Path) -> None:
    run = experiment(demo, store, settings={"select_keyframes.k": 2}).run(name="two")
    assert run["score_frames"].id == artifact(store, "frame_scores").record.id
    keyframes = run["select_keyframes"].arrow().to_pylist()
    assert {len(row["rows"]) for row in keyframes if row["status"] == "ok"} == {2}
    assert "accuracy" in run.text
    assert "two" in [line.name for line in sevila.reports.named_runs.run_lines(artifact(store, "frames").store)]


def test_results_need_no_videos_or_weights_and_build_nothing(store: Path) -> None:
    elsewhere = sevila.load(SMALL, store=store)
    results = elsewhere.results()
    assert {step.status for step in elsewhere.plan()} == {"exists"}
    assert results["answer_questions"].id == artifact(store, "answers").record.id
    before = [path for path in sorted(store.rglob("*")) if path.suffix != ".lock"]
    with pytest.raises(sevila.SevilaError, match=r"run\(\) first: .*select_keyframes"):
        sevila.load(SMALL, store=store, settings={"select_keyframes.k": 3}).results()
    assert [path for path in sorted(store.rglob("*")) if path.suffix != ".lock"] == before


def test_imported_scores_have_a_path(tmp_path: Path) -> None:
    settings = {"chain.scorer": "imported", "import_scores.scores": "aks"}
    loaded = sevila.load(SMALL, settings=settings, scores={"aks": tmp_path / "aks.jsonl"}, store=tmp_path)
    assert loaded.request.places["scores"] == [f"aks={tmp_path / 'aks.jsonl'}"]


def test_settings_from_python_match_the_command_line(store: Path) -> None:
    settings = {"select_keyframes.selector": "aks", "select_keyframes.options": {"t1": 0.7, "official": True}}
    settings |= {"chain.selectors": ["uniform", "oracle"], "list_questions.split": "1"}
    recipe = sevila.load(SMALL, store=store, settings=settings, seed=3).recipe
    chosen = recipe.config_of("select_keyframes")
    assert (chosen.options["t1"], chosen.options["official"], chosen.seed) == (0.7, True, 3)
    assert recipe.chain.selectors == ("uniform", "oracle") and recipe.config_of("list_questions").split == "1"
    with pytest.raises(sevila.SevilaError, match="did you mean 'k'"):
        sevila.load(SMALL, store=store, settings={"select_keyframes.kk": 3})


@pytest.mark.parametrize("kind", [Answers, Features, Frames, FrameScores, Keyframes, Questions])
def test_every_table_is_an_arrow_table_of_its_declared_types(store: Path, kind: Any) -> None:
    tables = sevila.artifact(artifact(store, kind.kind).record.id, store=store)
    assert tables.tables == list(kind.tables)
    for name in tables.tables:
        table = tables.arrow(name)
        assert isinstance(table, pyarrow.Table) and table.schema == kind.tables[name].arrow()
        assert table.to_pylist() == artifact(store, kind.kind).rows(name)


def test_unknown_and_damaged_tables_are_refused(store: Path) -> None:
    answers = sevila.artifact("answer_questions", store=store)
    with pytest.raises(sevila.SevilaError, match=r"did you mean .answers..*tables: answers, frame_answers"):
        answers.arrow("answer")
    with pytest.raises(sevila.SevilaError, match="several tables, name one"):
        sevila.artifact("extract_features", store=store).arrow()
    with pytest.raises(sevila.SevilaError, match="no artifact starts with 'x'"):
        sevila.artifact("x", store=store)
    for path in answers.path.rglob("answers*/*.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(sevila.SevilaError, match="checksum"):
        sevila.artifact("answer_questions", store=store).arrow()


def test_tables_convert_to_pandas_and_polars(store: Path) -> None:
    answers = sevila.artifact("answer_questions", store=store)
    ids = answers.arrow()["question_id"].to_pylist()
    pytest.importorskip("polars")
    assert answers.polars()["question_id"].to_list() == ids
    pytest.importorskip("pandas")
    assert answers.pandas()["question_id"].tolist() == ids


def test_a_missing_library_is_named_with_its_install_command(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(sevila.SevilaError, match=r'pip install "sevila-pipeline\[polars\]"'):
        sevila.artifact("answer_questions", store=store).polars()


def test_tensors_get_the_scores_and_answers_of_a_run(demo: Path, finished: Path) -> None:
    localizer = sevila.Localizer.load(demo / "tiny-blip2", device="cpu")
    answerer = sevila.Answerer.load(demo / "tiny-blip2", device="cpu")
    assert localizer._frozen is answerer._frozen
    questions = {question.question_id: question for question in artifact(finished, "questions").questions()}
    scores = artifact(finished, "frame_scores").by_question()
    answers = {row["question_id"]: row for row in artifact(finished, "answers").rows("answers")}
    for row in artifact(finished, "keyframes").rows("keyframes")[:4]:
        question, where = questions[row["question_id"]], scores.where[row["question_id"]]
        frames = pixels(finished, question.video_id, list(range(where.stop - where.start)))
        scored = localizer.score(frames, question.question, question.options)
        for name, values in scored._asdict().items():
            assert values.numpy() == pytest.approx(getattr(scores, name)[where], rel=1e-4, abs=1e-5)
        assert sevila.select(scored.logit_yes, "top_k", k=4).tolist() == row["positions"]
        answer = answerer.answer(frames[row["rows"]], question.question, question.options)
        stored = answers[question.question_id]
        assert (answer.prediction, answer.option) == (stored["prediction"], question.options[stored["prediction"]])
        assert answer.logits.numpy() == pytest.approx(np.array(stored["option_logits"]), rel=1e-4, abs=1e-5)


def test_frames_of_any_size_are_resized_and_other_inputs_are_refused(demo: Path) -> None:
    localizer = sevila.Localizer.load(demo / "tiny-blip2", device="cpu")
    large = torch.full((3, 60, 100, 3), 90, dtype=torch.uint8)
    small = torch.full((3, 28, 28, 3), 90, dtype=torch.uint8)
    assert torch.equal(localizer.score(large, QUESTION, OPTIONS)[0], localizer.score(small, QUESTION, OPTIONS)[0])
    for wrong in (large.float(), large[0], large.permute(0, 3, 1, 2), large[:0]):
        with pytest.raises(sevila.SevilaError, match=r"expected uint8 \[T, H, W, 3\]"):
            localizer.score(wrong, QUESTION, OPTIONS)
    for wrong, hint in ((small.numpy(), r"torch\.from_numpy"), (list(small), "a list; expected a torch tensor")):
        with pytest.raises(sevila.SevilaError, match=hint):
            localizer.score(wrong, QUESTION, OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(sevila.SevilaError, match="did you mean 'next_event'"):
        localizer.score(small, QUESTION, OPTIONS, prompt="next_events")


def test_questions_and_options_must_be_texts(demo: Path) -> None:
    answerer = sevila.Answerer.load(demo / "tiny-blip2", device="cpu")
    frames = torch.zeros(2, 28, 28, 3, dtype=torch.uint8)
    wrong: list[tuple[Any, Any]] = [(None, OPTIONS), (QUESTION, "red"), (QUESTION, [1, 2])]
    for question, options in wrong:
        with pytest.raises(sevila.SevilaError, match=r"expected a (list of )?str"):
            answerer.answer(frames, question, options)
    array: Any = np.array(OPTIONS, object)
    assert answerer.answer(frames, QUESTION, array).option in OPTIONS
    with pytest.raises(sevila.SevilaError, match="prompt 'moment': does not ask for an option"):
        answerer.answer(frames, QUESTION, OPTIONS, prompt="moment")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float8"}, "precision 'float8': expected one of float32, bfloat16, int8, fp8"),
        ({"precision": "auto"}, "precision 'auto'"),
        ({"device": "gpu"}, "device 'gpu': torch .* has auto, cpu"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
    ],
)
def test_an_unknown_device_or_precision_is_refused_with_the_known_ones(
    options: dict[str, Any], message: str, demo: Path
) -> None:
    with pytest.raises(sevila.SevilaError, match=message):
        sevila.Localizer.load(demo / "tiny-blip2", **options)


def test_weights_load_from_an_artifact_and_missing_ones_are_named(demo: Path, finished: Path) -> None:
    stored = sevila.artifact("init_answerer", store=finished).path
    frames = torch.zeros(2, 28, 28, 3, dtype=torch.uint8)
    from_artifact, from_checkpoint = (
        sevila.Answerer.load(demo / "tiny-blip2", weights, device="cpu").answer(frames, QUESTION, OPTIONS)
        for weights in (stored, None)
    )
    assert torch.equal(from_artifact.logits, from_checkpoint.logits)
    with pytest.raises(sevila.SevilaError, match="does not exist"):
        sevila.Localizer.load(demo / "tiny-blip2", demo / "absent.pth")
    with pytest.raises(sevila.SevilaError, match="set SEVILA_WEIGHTS"):
        sevila.Localizer.load("absent")
    for path in (demo / "absent", str(demo / "absent"), "./absent", ""):
        with pytest.raises(sevila.SevilaError, match="does not exist; expected the folder of a BLIP-2"):
            sevila.Localizer.load(path)
    with pytest.raises(sevila.SevilaError, match="at least one"):
        sevila.Answerer.load(demo / "tiny-blip2").answer(frames, QUESTION, [])


def test_keyframes_are_selected_from_tensors_arrays_and_lists() -> None:
    scores = [0.1, 0.9, 0.3, 0.8, 0.2]
    for values in (
        scores,
        np.array(scores, np.float32),
        torch.tensor(scores),
        torch.tensor(scores, dtype=torch.bfloat16),
    ):
        assert sevila.select(values, "top_k", k=2).tolist() == [1, 3]
    assert sevila.select(None, "uniform", k=2, n_frames=5).tolist() == sevila.select(scores, "uniform", 2).tolist()
    assert len(sevila.select(torch.rand(64), "aks", k=8, t1=0.9)) <= 8
    assert len(sevila.select(torch.rand(64), "mmr", k=8, vectors=torch.rand(64, 3))) == 8
    for problem, arguments in {
        "no selector is called 'top_kk'": (scores, "top_kk", 2),
        "needs a vector of each frame": (scores, "mmr", 2),
        "nan at": ([0.1, float("nan")], "top_k", 1),
    }.items():
        with pytest.raises(sevila.SevilaError, match=problem):
            sevila.select(*arguments)
    with pytest.raises(sevila.SevilaError, match="top_k has no option 't1'"):
        sevila.select(scores, "top_k", 2, t1=0.5)


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        (([0.1, 0.9], "top_k", 0), {}, "k is 0; expected a whole number, at least 1"),
        (([0.1, 0.9], "top_k", 1.0), {}, "k is 1.0; expected a whole number"),
        (([0.1, 0.9], "top_k", "1"), {}, "k is '1'; expected a whole number"),
        ((None, "uniform", 2), {"n_frames": -3}, "n_frames is -3; expected a whole number, at least 0"),
        ((None, "uniform", 2), {"n_frames": 3.5}, "n_frames is 3.5"),
        ((["a", "b"], "top_k", 1), {}, "scores: no numbers"),
        (({0: 1.0}, "top_k", 1), {}, "scores: no numbers"),
        (([0.1, 0.9], None, 1), {}, "method: a NoneType; expected the name of a selector"),
        (([0.1, 0.9], max, 1), {}, "method: a builtin_function_or_method"),
    ],
)
def test_invalid_arguments_of_select_are_refused(arguments: Any, more: Any, message: str) -> None:
    with pytest.raises(sevila.SevilaError, match=message):
        sevila.select(*arguments, **more)


def test_a_large_k_selects_all_frames_and_the_oracle_without_moments_none() -> None:
    assert sevila.select([0.1, 0.9], "top_k", k=9).tolist() == [0, 1]
    assert sevila.select([], "top_k", k=2).tolist() == []
    assert sevila.select(None, "oracle", k=2, seconds=[0, 1, 2], moments=[]).tolist() == []


def test_precision_and_limit_from_python_match_the_command_line(store: Path) -> None:
    recipe = sevila.load(
        SMALL, store=store, precision="bfloat16", limit=4, settings={"score_frames.precision": "float32"}
    )
    precisions = {name: recipe.recipe.config_of(name).precision for name in ("score_frames", "answer_questions")}
    assert precisions == {"score_frames": "float32", "answer_questions": "bfloat16"}
    assert recipe.recipe.config_of("list_questions").limit == 4
    wrong: Any = "float8"
    with pytest.raises(
        sevila.SevilaError, match="precision 'float8': expected one of float32, bfloat16, int8, fp8, auto"
    ):
        sevila.load(SMALL, store=store, precision=wrong)


def test_numpy_numbers_are_accepted_as_settings(store: Path) -> None:
    settings = {
        "select_keyframes.k": np.int64(3),
        "select_keyframes.selector": "aks",
        "select_keyframes.options": {"t1": np.float64(0.5)},
    }
    chosen = sevila.load(SMALL, store=store, settings=settings).recipe.config_of("select_keyframes")
    assert (chosen.k, chosen.options["t1"]) == (3, 0.5)
    wrong: Any = ["select_keyframes.k=3"]
    with pytest.raises(sevila.SevilaError, match="settings: a list; expected a dict"):
        sevila.load(SMALL, store=store, settings=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode_workers": 0}, "decode_workers is 0; expected a whole number, at least 1"),
        ({"batch_tokens": 0.5}, "batch_tokens is 0.5"),
        ({"processes": -1}, "processes is -1; expected a whole number, at least 0"),
        ({"device": "gpu"}, "device 'gpu'"),
    ],
)
def test_execution_options_are_checked_at_load(options: dict[str, Any], message: str, store: Path) -> None:
    assert sevila.load(SMALL, store=store, batch_tokens="auto", device="cpu").how["batch_tokens"] is None
    with pytest.raises(sevila.SevilaError, match=message):
        sevila.load(SMALL, store=store, **options)
    misspelt: Any = {"decode_worker": 2}
    with pytest.raises(TypeError, match=r"'decode_worker' \(did you mean 'decode_workers'"):
        sevila.load(SMALL, store=store, **misspelt)


def test_an_unknown_stage_or_setting_of_a_run_is_refused_with_the_known_ones(store: Path) -> None:
    results = sevila.load(SMALL, store=store).results()
    with pytest.raises(sevila.SevilaError, match=r"no 'answer' \(did you mean 'answer_questions'\?\); stages: "):
        results["answer"]
    with pytest.raises(sevila.SevilaError, match="no 'evaluate' with setting 'x'; settings: none"):
        results.of("evaluate", "x")


def test_frames_are_read_by_rows_in_any_order_and_unknown_rows_are_refused(store: Path) -> None:
    frames = sevila.artifact("sample_frames", store=store)
    video = frames.arrow("frames")["video_id"][0].as_py()
    pixels = frames.array(video)
    known: list[Any] = [[3, 1], [1, 1], np.array([0, 5, 2])]
    for rows in known:
        assert np.array_equal(frames.array(video, rows), pixels[rows])
    assert frames.array(video, []).shape == (0, *pixels.shape[1:])
    unknown: list[Any] = [[0, 99], [-1], 3, [0.5]]
    for rows in unknown:
        with pytest.raises(sevila.SevilaError, match="expected a list of numbers from 0 to 7"):
            frames.array(video, rows)


def test_below_takes_one_store_and_a_missing_store_is_named(store: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    above = sevila.artifact("answer_questions", store=own, below=store)
    assert above.id == sevila.artifact("answer_questions", store=store).id
    with pytest.raises(sevila.SevilaError, match=r"in .*own, which does not exist"):
        sevila.artifact("answer_questions", store=own)
