"""Chains with other scorers than the Localizer, selectors that compare vectors, and custom prompts."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.errors import RecipeError
from cache.store import Store
from pipeline.datasets.question import Question
from pipeline.engine.recipe import load
from pipeline.inference.not_finite import SCORES
from pipeline.models.embedder import Embedder, load_embedder
from pipeline.models.matcher import Matcher, load_matcher
from pipeline.selection.registry import selector_named
from pipeline.selection.selector import Candidates
from stages.all import STAGES
from stages.embed_frames import Embeddings
from stages.extract_features import Features
from stages.score_by_similarity import BYTES_A_SCORE
from stages.score_frames import FrameScores
from tests.stages.runs import artifact, records, sevila
from tests.stages.test_out_of_memory import with_memory_for
from tests.tiny_scorers import write_tiny_embedder, write_tiny_matcher


@pytest.fixture(scope="module")
def shared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("scorers") / "store"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_embedder(folder / "clip", "clip")
    write_tiny_embedder(folder / "siglip", "siglip")
    write_tiny_matcher(folder / "itm")
    return folder


def set_words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def scorer_words(models: Path, kind: str, *settings: str) -> list[str]:
    stage, scorer = ("import_matcher", "itm") if kind == "itm" else ("import_embedder", "clip")
    changes = [f"chain.scorer={scorer}", f"{stage}.weights={kind}", *settings]
    return [*set_words(*changes), "--weights", f"{kind}={models / kind}"]


def newest_scores(store: Path) -> tuple[FrameScores, dict[str, Question]]:
    """The scores by which the newest keyframes were chosen, and the questions."""
    keyframes = artifact(store, "keyframes").record
    questions = artifact(store, "questions").questions()
    return FrameScores(Store(store), keyframes.inputs["scores"]), {each.question_id: each for each in questions}


def pixels_of(store: Path, question: Question) -> torch.Tensor:
    frames = artifact(store, "frames")
    rows = frames.clips()[question.video_id, question.clip_id]["row"]
    return torch.from_numpy(frames.open().read(question.video_id, rows))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_similarity_scores_are_cosines_of_question_and_frame(kind: str, demo: Path, shared: Path, models: Path) -> None:
    assert sevila("run", demo, shared, *scorer_words(models, kind)) == 0
    scores, questions = newest_scores(shared)
    by_question = scores.by_question()
    assert len(by_question.where) == 24 and not by_question.failed
    embedder = load_embedder(models / kind, torch.float32, "cpu")
    for id in list(by_question.where)[::7]:
        vector = embedder.of_texts([questions[id].question])[0][0]
        expected = (embedder.of_frames(pixels_of(shared, questions[id])) @ vector).numpy()
        for rank_by in ("logit_yes", "probability_yes", "yes_versus_no"):
            assert np.allclose(by_question.ranking(rank_by)[id], expected, atol=1e-5)
        assert expected.std() > 1e-3  # frames differ
    answers = artifact(shared, "answers").rows("answers")
    assert [row["status"] for row in answers].count("ok") == 24


@pytest.mark.parametrize("kind", ["clip", "itm"])
def test_questions_of_one_video_can_stand_in_several_shards(
    kind: str, demo: Path, shared: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = "score_by_similarity" if kind == "clip" else "score_by_matching"
    words = scorer_words(models, kind, f"{stage}.template=which {{question}}")
    store = Path(shutil.copytree(shared, tmp_path / "store"))
    assert sevila("run", demo, store, *words) == 0
    monkeypatch.setattr("pipeline.inference.frame_by_frame.MAX_PAIRS", 9)
    assert sevila("run", demo, shared, *words, "--shard-megabytes", f"{9 * BYTES_A_SCORE / 2**20}") == 0
    one, many = newest_scores(store)[0], newest_scores(shared)[0]
    assert len(one.files("frame_scores", ".parquet")) == 1 and len(many.files("frame_scores", ".parquet")) >= 24
    a, b = (each.columns("frame_scores", "question_id", "position", "logit_yes") for each in (one, many))
    assert all(a[name].tolist() == b[name].tolist() for name in ("question_id", "position"))
    assert np.allclose(a["logit_yes"], b["logit_yes"], atol=1e-5)


def test_texts_are_embedded_in_smaller_batches_when_memory_runs_out(
    demo: Path,
    shared: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Path(shutil.copytree(shared, tmp_path / "store"))
    template = "score_by_similarity.template={options} {question}"
    assert sevila("run", demo, shared, *scorer_words(models, "clip", template)) == 0
    monkeypatch.setattr(Embedder, "of_texts", with_memory_for(3, Embedder.of_texts))
    with caplog.at_level(logging.WARNING, "sevila"):
        assert sevila("run", demo, store, *scorer_words(models, "clip", template)) == 0
    assert any(message.startswith("score_by_similarity: out of memory with ") for message in caplog.messages)
    scores = [newest_scores(each)[0] for each in (shared, store)]
    expected, limited = (each.columns("frame_scores", "question_id", "logit_yes") for each in scores)
    assert limited["question_id"].tolist() == expected["question_id"].tolist()
    assert np.allclose(limited["logit_yes"], expected["logit_yes"], atol=1e-5)


@pytest.mark.parametrize(("kind", "owner", "name"), [("clip", Embedder, "of_texts"), ("itm", Matcher, "score")])
def test_a_question_without_finite_scores_is_counted_and_a_run_without_any_stops(
    kind: str,
    owner: type,
    name: str,
    demo: Path,
    shared: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original, broken = getattr(owner, name), slice(0, 1)

    def without_numbers(self: Any, *inputs: Any) -> Any:
        out = original(self, *inputs)
        (out[0] if kind == "clip" else out)[broken] = torch.nan
        return out

    monkeypatch.setattr(owner, name, torch.no_grad()(without_numbers))
    stage = "score_by_similarity" if kind == "clip" else "score_by_matching"
    in_one_batch = ("--batch-tokens", "16384")  # its first row is broken
    words = (*scorer_words(models, kind, f"{stage}.template=one {{question}}"), *in_one_batch)
    assert sevila("run", demo, Path(shutil.copytree(shared, tmp_path / "one")), *words) == 0
    assert newest_scores(tmp_path / "one")[0].record.dropped == {SCORES: 1}
    broken = slice(None)
    capsys.readouterr()
    for _ in range(2):
        assert sevila("run", demo, tmp_path / "one", *words, "--set", f"{stage}.template=all {{question}}") == 1
        assert "gave no question finite scores" in capsys.readouterr().err


def test_float32_is_suggested_only_for_other_precisions(
    demo: Path,
    shared: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = Embedder.of_frames
    monkeypatch.setattr(Embedder, "of_frames", torch.no_grad()(lambda *given: original(*given).fill_(torch.inf)))
    words = scorer_words(models, "siglip", "sample_frames.frames=5")  # no other test embeds these frames
    for precision, advice in (("float32", "the weights are damaged"), ("bfloat16", "set precision to float32")):
        store = Path(shutil.copytree(shared, tmp_path / precision))
        assert sevila("run", demo, store, *words, "--set", f"embed_frames.precision={precision}") == 1
        error = capsys.readouterr().err
        assert "values that float32 cannot hold, for every video" in error and advice in error
        assert ("set precision" in error) == (precision != "float32")


def test_matching_scores_are_the_logits_of_the_matcher(demo: Path, shared: Path, models: Path) -> None:
    template = "score_by_matching.template={question} {options}"
    assert sevila("run", demo, shared, *scorer_words(models, "itm", template)) == 0
    scores, questions = newest_scores(shared)
    assert scores.record.stage == "score_by_matching"
    table = scores.columns("frame_scores", "question_id", "logit_yes", "logit_no", "probability_yes")
    matcher = load_matcher(models / "itm", "cpu")
    id = table["question_id"][0]
    text = f"{questions[id].question} {' '.join(questions[id].options)}"
    features = artifact(shared, "features")  # the newest are the matcher's
    visual = matcher.visual(torch.from_numpy(features.open().read(questions[id].video_id, slice(None)).copy()))
    clip = artifact(shared, "frames").clips()[questions[id].video_id, questions[id].clip_id]
    expected = matcher.score(visual[clip["row"].tolist()], matcher.tokenize([text])[0] * len(clip["row"]))
    of_question = table["question_id"] == id
    assert np.allclose(table["logit_yes"][of_question], expected[:, 1], atol=1e-4)
    assert np.allclose(table["logit_no"][of_question], expected[:, 0], atol=1e-4)
    assert np.allclose(table["probability_yes"][of_question], expected.softmax(dim=1)[:, 1], atol=1e-4)


def test_another_text_template_reuses_frame_embeddings(demo: Path, shared: Path, models: Path) -> None:
    assert sevila("run", demo, shared, *scorer_words(models, "clip")) == 0
    before = records(shared)
    more = ("select_keyframes.k=2", "score_by_similarity.template={question} {options}")
    assert sevila("run", demo, shared, *scorer_words(models, "clip", *more)) == 0
    new = {record.stage for id, record in records(shared).items() if id not in before}
    assert new == {"score_by_similarity", "select_keyframes", "answer_questions", "evaluate"}


@pytest.mark.parametrize("selector", ["mdp3", "dpp", "mmr"])
def test_vector_selectors_read_the_embeddings_of_the_scorer(
    selector: str, demo: Path, shared: Path, models: Path
) -> None:
    assert sevila("run", demo, shared, *scorer_words(models, "clip", f"select_keyframes.selector={selector}")) == 0
    record = artifact(shared, "keyframes").record
    embeddings = Embeddings(Store(shared), record.inputs["vectors"])
    scores, _ = newest_scores(shared)
    check_selection(shared, selector, scores, lambda video: embeddings.open().read(video, slice(None)))


def test_vector_selectors_read_mean_features_when_the_localizer_scores(demo: Path, shared: Path) -> None:
    assert sevila("run", demo, shared, "--set", "select_keyframes.selector=mmr", "--set", "select_keyframes.k=3") == 0
    features = Features(Store(shared), artifact(shared, "keyframes").record.inputs["vectors"])
    scores, _ = newest_scores(shared)

    def vectors_of(video: str) -> np.ndarray:
        means: np.ndarray = features.open().read(video, slice(None)).astype(np.float32).mean(axis=1)
        return means

    check_selection(shared, "mmr", scores, vectors_of)


def check_selection(store: Path, selector: str, scores: FrameScores, vectors_of: Any) -> None:
    clips, values = artifact(store, "frames").clips(), scores.by_question().ranking("logit_yes")
    keyframes = artifact(store, "keyframes")
    chosen = [row for row in keyframes.rows("keyframes") if row["status"] == "ok"]
    assert len(chosen) == 24
    for row in chosen:
        clip = clips[row["video_id"], row["clip_id"]]
        vectors = vectors_of(row["video_id"])[clip["row"]]
        candidates = Candidates.of(scores=values[row["question_id"]], vectors=vectors)
        expected = selector_named(selector)(candidates, keyframes.record.config["k"])
        assert row["positions"] == expected.tolist()


def test_a_custom_prompt_with_the_default_text_gives_the_default_scores(demo: Path, shared: Path) -> None:
    template = (
        "Question: {question} Options: ({options} ) Does the information within the frame provide the necessary details to "
        "accurately answer the given question?"
    )
    by_localizer = (id for id, each in records(shared).items() if each.stage == "score_frames")
    default = FrameScores(Store(shared), next(by_localizer))
    words = ("--set", "score_frames.prompt=custom", "--set")
    assert sevila("stage", demo, shared, "score_frames", *words, f"score_frames.template={template}") == 0
    same = artifact(shared, "frame_scores")
    assert same.id != default.id and same.record.config["template"] == template
    other_template = "score_frames.template=Is {question} answered here?"
    assert sevila("stage", demo, shared, "score_frames", *words, other_template) == 0
    artifacts = (default, same, artifact(shared, "frame_scores"))
    logits = [scores.columns("frame_scores", "logit_yes")["logit_yes"] for scores in artifacts]
    assert np.array_equal(logits[0], logits[1]) and not np.array_equal(logits[0], logits[2])


@pytest.fixture(scope="module")
def subtitled(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo with subtitles from 1 s on for all but two videos."""
    folder = Path(shutil.copytree(demo, tmp_path_factory.mktemp("spoken") / "demo"))
    (folder / "subtitles").mkdir()
    for video in sorted((folder / "videos").iterdir())[2:]:
        cue = "00:00:01,000 --> 00:00:03,500\nthe red square\n"
        (folder / "subtitles" / f"{video.stem}.en.srt").write_text(f"1\n{cue}")
    return folder


def subtitles_at(store: Path, table: dict[str, np.ndarray]) -> np.ndarray:
    """The subtitle shown at the frame of each row, empty without one."""
    cues = artifact(store, "questions").subtitles()
    rows = zip(table["video_id"], table["seconds"], strict=True)
    return np.array([cues[video].shown_at(seconds) if video in cues else "" for video, seconds in rows])


SUBTITLED = ("list_questions.subtitles=true", "score_frames.prompt=custom")


def test_the_similarity_template_includes_subtitles_of_each_frame(subtitled: Path, shared: Path, models: Path) -> None:
    before = {record.stage for record in records(shared).values()}
    template = "score_by_similarity.template={question} {subtitles}"
    assert sevila("run", subtitled, shared, *scorer_words(models, "clip", SUBTITLED[0], template)) == 0
    scores, questions = newest_scores(shared)
    table = scores.columns("frame_scores", "question_id", "video_id", "position", "seconds", "logit_yes")
    shown = subtitles_at(shared, table)
    assert 0 < np.count_nonzero(shown == "") < len(shown) and "sample_frames" in before
    assert sum(record.stage == "sample_frames" for record in records(shared).values()) == 1  # the videos are the same
    embedder = load_embedder(models / "clip", torch.float32, "cpu")
    for row in range(0, len(shown), 37):
        question = questions[table["question_id"][row]]
        vector = embedder.of_texts([f"{question.question} {shown[row]}"])[0][0]
        frame = embedder.of_frames(pixels_of(shared, question)[table["position"][row], None])[0]
        assert np.isclose(table["logit_yes"][row], float(frame @ vector), atol=1e-5)


def test_the_matching_template_includes_subtitles_of_each_frame(subtitled: Path, shared: Path, models: Path) -> None:
    template = "score_by_matching.template={subtitles} {question}"  # the tiny model reads few letters
    assert sevila("run", subtitled, shared, *scorer_words(models, "itm", SUBTITLED[0], template)) == 0
    scores, questions = newest_scores(shared)
    assert scores.record.stage == "score_by_matching"
    columns = ("question_id", "video_id", "position", "seconds", "logit_yes", "logit_no")
    table = scores.columns("frame_scores", *columns)
    shown, matcher = subtitles_at(shared, table), load_matcher(models / "itm", "cpu")
    assert 0 < np.count_nonzero(shown == "") < len(shown)
    features = artifact(shared, "features").open()  # the newest are the matcher's
    clips = artifact(shared, "frames").clips()
    differences = []
    for row in range(0, len(shown), 37):
        question = questions[table["question_id"][row]]
        stored = clips[question.video_id, question.clip_id]["row"][table["position"][row], None]
        visual = matcher.visual(torch.from_numpy(features.read(question.video_id, stored).copy()))
        texts = [f"{subtitle} {question.question}" for subtitle in (shown[row], "other words")]
        no, yes = matcher.score(visual.expand(2, -1, -1), matcher.tokenize(texts)[0]).unbind(dim=1)
        assert np.isclose(table["logit_yes"][row], float(yes[0]), atol=1e-4)
        assert np.isclose(table["logit_no"][row], float(no[0]), atol=1e-4)
        differences.append(abs(float(yes[0] - yes[1])))
    assert max(differences) > 1e-3  # the texts count


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_localizer_template_includes_subtitles_and_keeps_scores_of_frames_without(
    at_once: int, subtitled: Path, shared: Path
) -> None:
    columns = []
    for template in ("Is {question} answered here?{subtitles}", "Is {question} answered here?"):
        settings = (*SUBTITLED, f"score_frames.template={template}", f"score_frames.frames_at_once={at_once}")
        assert sevila("run", subtitled, shared, *set_words(*settings)) == 0
        scores, _ = newest_scores(shared)
        columns.append(scores.columns("frame_scores", "question_id", "video_id", "position", "seconds", "logit_yes"))
    with_text, without_text = columns
    assert np.array_equal(with_text["question_id"], without_text["question_id"])
    first = with_text["position"] // at_once * at_once  # of its stretch, whose subtitles are used
    texts = subtitles_at(shared, with_text)[np.arange(len(first)) - with_text["position"] + first]
    assert np.allclose(with_text["logit_yes"][texts == ""], without_text["logit_yes"][texts == ""], atol=1e-5)
    assert np.abs(with_text["logit_yes"] - without_text["logit_yes"])[texts != ""].min() > 1e-5


def test_a_subtitle_template_without_subtitles_is_refused_by_plan(
    demo: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("score_frames.prompt=custom", "score_frames.template={question} {subtitles}")
    assert sevila("plan", demo, shared, *set_words(*settings)) == 1
    assert "--set list_questions.subtitles=true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["score_frames.prompt=custom"], "prompt is 'custom'; expected 'custom' with a template"),
        (["score_frames.template={question}"], "prompt is 'multiple_choice'; expected 'custom' with a template"),
        (
            ["score_frames.prompt=custom", "score_frames.template={query}"],
            r"\{query\} is no field; the fields are \{question\}",
        ),
        (["score_frames.prompt=custom", "score_frames.template={question"], "write a literal brace twice"),
        (["score_by_similarity.template=a cat"], "all questions would be the same"),
    ],
)
def test_an_invalid_template_is_an_error(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load("plain", STAGES, settings)


def test_the_full_chain_refuses_other_scorers_and_vector_selectors(
    demo: Path, shared: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = ("chain.kind=full", "chain.training_split=train")
    assert sevila("plan", demo, shared, *scorer_words(models, "clip", *full)) == 1
    assert "[chain] scorer = 'clip' is for the forward chain" in capsys.readouterr().err
    settings = [*full, "select_keyframes.selector=mdp3"]
    assert sevila("plan", demo, shared, *set_words(*settings)) == 1
    assert "[select_keyframes] selector = 'mdp3' is for the forward chain" in capsys.readouterr().err


def test_defaults_of_newer_keys_and_inputs_keep_artifact_ids() -> None:
    """Golden values: configs and ids of stores written before these keys existed."""
    recipe = load("plain", STAGES, ["score_frames.precision=float32"])
    assert recipe.config_of("score_frames").model_dump() == {
        "prompt": "multiple_choice",
        "instruction": "necessary_details",
        "precision": "float32",
    }
    assert "most_frames" not in recipe.config_of("sample_frames").model_dump()
    assert (
        load("plain", STAGES, ["sample_frames.most_frames=9"]).config_of("sample_frames").model_dump()["most_frames"]
        == 9
    )
    stage = STAGES["select_keyframes"]
    nothing = stage.input_ids([None] * len(stage.inputs))
    assert nothing == {"questions": None, "frames": None, "scores": None}
    before = {
        "select_keyframes": "select_keyframes-v1-c01411dcbe6680972721",
        "score_frames": "score_frames-v1-2148e79b0c2e06c11bd4",
        "sample_frames": "sample_frames-v5-f09e9596ce0c3924e145",
    }
    for name, id in before.items():
        stage, cfg = STAGES[name], load("plain", STAGES).config_of(name)
        assert stage.artifact_id(cfg, [None] * len(stage.inputs)) == id
