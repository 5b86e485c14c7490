"""Other scorers in the Localizer's place, selectors that compare vectors, and prompts of one's own: in a chain."""

import logging
import shutil
from collections.abc import Sequence
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
from stages.score_frames import FrameScores
from tests.stages.runs import artifact, records, sevila
from tests.tiny_scorers import write_tiny_embedder, write_tiny_matcher


@pytest.fixture(scope="module")
def own(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("scorers") / "store"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_embedder(folder / "clip", "clip")
    write_tiny_embedder(folder / "siglip", "siglip")
    write_tiny_matcher(folder / "itm")
    return folder


def scored_by(models: Path, kind: str, *settings: str) -> list[str]:
    stage, scorer = ("import_matcher", "itm") if kind == "itm" else ("import_embedder", "clip")
    changes = [f"chain.scorer={scorer}", f"{stage}.weights={kind}", *settings]
    return [*(word for each in changes for word in ("--set", each)), "--weights", f"{kind}={models / kind}"]


def of_last_run(store: Path) -> tuple[FrameScores, dict[str, Question]]:
    """The scores by which the newest keyframes were chosen, and the questions."""
    keyframes = artifact(store, "keyframes").record
    questions = artifact(store, "questions").questions()
    return FrameScores(Store(store), keyframes.inputs["scores"]), {each.question_id: each for each in questions}


def pixels_of(store: Path, question: Question) -> torch.Tensor:
    frames = artifact(store, "frames")
    rows = frames.clips()[question.video_id, question.clip_id]["row"]
    return torch.from_numpy(frames.open().read(question.video_id, rows))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_chain_chooses_by_cosines_of_question_and_frame(kind: str, demo: Path, own: Path, models: Path) -> None:
    assert sevila("run", demo, own, *scored_by(models, kind)) == 0
    scores, questions = of_last_run(own)
    by_question = scores.by_question()
    assert len(by_question.where) == 24 and not by_question.failed
    embedder = load_embedder(models / kind, torch.float32, "cpu")
    for id in list(by_question.where)[::7]:
        vector = embedder.of_texts([questions[id].question])[0][0]
        wanted = (embedder.of_frames(pixels_of(own, questions[id])) @ vector).numpy()
        for rank_by in ("logit_yes", "probability_yes", "yes_versus_no"):
            assert np.allclose(by_question.ranking(rank_by)[id], wanted, atol=1e-5)
        assert wanted.std() > 1e-3  # frames differ
    answers = artifact(own, "answers").rows("answers")
    assert [row["status"] for row in answers].count("ok") == 24


def test_texts_for_which_memory_does_not_suffice_are_embedded_in_smaller_batches(
    demo: Path,
    own: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Path(shutil.copytree(own, tmp_path / "store"))
    template = "score_by_similarity.template={options} {question}"
    whole = Embedder.of_texts

    def of_texts(self: Embedder, texts: Sequence[str]) -> Any:
        if len(texts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(self, texts)

    assert sevila("run", demo, own, *scored_by(models, "clip", template)) == 0
    monkeypatch.setattr(Embedder, "of_texts", of_texts)
    with caplog.at_level(logging.WARNING, "sevila"):
        assert sevila("run", demo, store, *scored_by(models, "clip", template)) == 0
    assert any(message.startswith("score_by_similarity: out of memory with ") for message in caplog.messages)
    wanted, found = (of_last_run(each)[0].columns("frame_scores", "question_id", "logit_yes") for each in (own, store))
    assert found["question_id"].tolist() == wanted["question_id"].tolist()
    assert np.allclose(found["logit_yes"], wanted["logit_yes"], atol=1e-5)


@pytest.mark.parametrize(("kind", "owner", "name"), [("clip", Embedder, "of_texts"), ("itm", Matcher, "score")])
def test_a_question_without_finite_scores_is_counted_and_where_all_are_without_the_run_stops_and_says_so(
    kind: str,
    owner: type,
    name: str,
    demo: Path,
    own: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, broken = getattr(owner, name), slice(0, 1)

    def without_numbers(self: Any, *inputs: Any) -> Any:
        out = whole(self, *inputs)
        (out[0] if kind == "clip" else out)[broken] = torch.nan
        return out

    monkeypatch.setattr(owner, name, torch.no_grad()(without_numbers))
    stage = "score_by_similarity" if kind == "clip" else "score_by_matching"
    in_one_batch = ("--batch-tokens", "16384")  # of which the first row is broken
    words = (*scored_by(models, kind, f"{stage}.template=one {{question}}"), *in_one_batch)
    assert sevila("run", demo, Path(shutil.copytree(own, tmp_path / "one")), *words) == 0
    assert of_last_run(tmp_path / "one")[0].record.dropped == {SCORES: 1}
    broken = slice(None)
    capsys.readouterr()
    for _ in range(2):
        assert sevila("run", demo, tmp_path / "one", *words, "--set", f"{stage}.template=all {{question}}") == 1
        assert "gave no question finite scores" in capsys.readouterr().err


def test_what_already_is_float32_is_not_advised_to_become_it(
    demo: Path,
    own: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = Embedder.of_frames
    monkeypatch.setattr(Embedder, "of_frames", torch.no_grad()(lambda *given: whole(*given).fill_(torch.inf)))
    words = scored_by(models, "siglip", "sample_frames.frames=5")  # which no other test has embedded
    for precision, advice in (("float32", "the weights are damaged"), ("bfloat16", "set precision to float32")):
        store = Path(shutil.copytree(own, tmp_path / precision))
        assert sevila("run", demo, store, *words, "--set", f"embed_frames.precision={precision}") == 1
        said = capsys.readouterr().err
        assert "values that float32 cannot hold, for every video" in said and advice in said
        assert ("set precision" in said) == (precision != "float32")


def test_a_chain_chooses_by_image_text_matching(demo: Path, own: Path, models: Path) -> None:
    assert sevila("run", demo, own, *scored_by(models, "itm", "score_by_matching.template={question} {options}")) == 0
    scores, questions = of_last_run(own)
    assert scores.record.stage == "score_by_matching"
    table = scores.columns("frame_scores", "question_id", "logit_yes", "logit_no", "probability_yes")
    matcher = load_matcher(models / "itm", "cpu")
    id = table["question_id"][0]
    text = f"{questions[id].question} {' '.join(questions[id].options)}"
    features = artifact(own, "features")  # the newest are the matcher's
    visual = matcher.visual(torch.from_numpy(features.open().read(questions[id].video_id, slice(None)).copy()))
    clip = artifact(own, "frames").clips()[questions[id].video_id, questions[id].clip_id]
    wanted = matcher.score(visual[clip["row"].tolist()], matcher.tokenize([text])[0] * len(clip["row"]))
    of_question = table["question_id"] == id
    assert np.allclose(table["logit_yes"][of_question], wanted[:, 1], atol=1e-4)
    assert np.allclose(table["logit_no"][of_question], wanted[:, 0], atol=1e-4)
    assert np.allclose(table["probability_yes"][of_question], wanted.softmax(dim=1)[:, 1], atol=1e-4)


def test_another_question_text_embeds_no_frame_again(demo: Path, own: Path, models: Path) -> None:
    assert sevila("run", demo, own, *scored_by(models, "clip")) == 0
    before = records(own)
    more = ("select_keyframes.k=2", "score_by_similarity.template={question} {options}")
    assert sevila("run", demo, own, *scored_by(models, "clip", *more)) == 0
    new = {record.stage for id, record in records(own).items() if id not in before}
    assert new == {"score_by_similarity", "select_keyframes", "answer_questions", "evaluate"}


@pytest.mark.parametrize("selector", ["mdp3", "dpp", "mmr"])
def test_selectors_compare_the_vectors_of_the_scorer_that_has_some(
    selector: str, demo: Path, own: Path, models: Path
) -> None:
    assert sevila("run", demo, own, *scored_by(models, "clip", f"select_keyframes.selector={selector}")) == 0
    record = artifact(own, "keyframes").record
    embeddings = Embeddings(Store(own), record.inputs["vectors"])
    scores, _ = of_last_run(own)
    check_selection(own, selector, scores, lambda video: embeddings.open().read(video, slice(None)))


def test_selectors_compare_means_of_features_where_the_localizer_scores(demo: Path, own: Path) -> None:
    assert sevila("run", demo, own, "--set", "select_keyframes.selector=mmr", "--set", "select_keyframes.k=3") == 0
    features = Features(Store(own), artifact(own, "keyframes").record.inputs["vectors"])
    scores, _ = of_last_run(own)

    def vectors_of(video: str) -> np.ndarray:
        means: np.ndarray = features.open().read(video, slice(None)).astype(np.float32).mean(axis=1)
        return means

    check_selection(own, "mmr", scores, vectors_of)


def check_selection(store: Path, selector: str, scores: FrameScores, vectors_of: Any) -> None:
    clips, values = artifact(store, "frames").clips(), scores.by_question().ranking("logit_yes")
    keyframes = artifact(store, "keyframes")
    chosen = [row for row in keyframes.rows("keyframes") if row["status"] == "ok"]
    assert len(chosen) == 24
    for row in chosen:
        clip = clips[row["video_id"], row["clip_id"]]
        vectors = vectors_of(row["video_id"])[clip["row"]]
        candidates = Candidates.of(scores=values[row["question_id"]], vectors=vectors)
        wanted = selector_named(selector)(candidates, keyframes.record.config["k"])
        assert row["positions"] == wanted.tolist()


def test_a_prompt_of_ones_own_that_says_the_same_scores_the_same(demo: Path, own: Path) -> None:
    template = (
        "Question: {question} Options: ({options} ) Does the information within the frame provide the necessary details to "
        "accurately answer the given question?"
    )
    by_localizer = (id for id, each in records(own).items() if each.stage == "score_frames")
    finished = FrameScores(Store(own), next(by_localizer))
    words = ("--set", "score_frames.prompt=custom", "--set")
    assert sevila("stage", demo, own, "score_frames", *words, f"score_frames.template={template}") == 0
    same = artifact(own, "frame_scores")
    assert same.id != finished.id and same.record.config["template"] == template
    column = "logit_yes"
    assert np.array_equal(
        same.columns("frame_scores", column)[column], finished.columns("frame_scores", column)[column]
    )
    assert sevila("stage", demo, own, "score_frames", *words, "score_frames.template=Is {question} answered here?") == 0
    other = artifact(own, "frame_scores")
    assert not np.array_equal(
        other.columns("frame_scores", column)[column], finished.columns("frame_scores", column)[column]
    )


@pytest.fixture(scope="module")
def spoken(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo in whose videos, but for two, something is said after a second."""
    folder = Path(shutil.copytree(demo, tmp_path_factory.mktemp("spoken") / "demo"))
    (folder / "subtitles").mkdir()
    for video in sorted((folder / "videos").iterdir())[2:]:
        cue = "00:00:01,000 --> 00:00:03,500\nthe red square\n"
        (folder / "subtitles" / f"{video.stem}.en.srt").write_text(f"1\n{cue}")
    return folder


def said_at(store: Path, table: dict[str, np.ndarray]) -> np.ndarray:
    """What is said at the frame of each row."""
    cues = artifact(store, "questions").subtitles()
    rows = zip(table["video_id"], table["seconds"], strict=True)
    return np.array([cues[video].shown_at(seconds) if video in cues else "" for video, seconds in rows])


SAID = ("list_questions.subtitles=true", "score_frames.prompt=custom")


def test_what_is_said_at_a_frame_is_part_of_what_its_vector_is_compared_with(
    spoken: Path, own: Path, models: Path
) -> None:
    before = {record.stage for record in records(own).values()}
    template = "score_by_similarity.template={question} {subtitles}"
    assert sevila("run", spoken, own, *scored_by(models, "clip", SAID[0], template)) == 0
    scores, questions = of_last_run(own)
    table = scores.columns("frame_scores", "question_id", "video_id", "position", "seconds", "logit_yes")
    shown = said_at(own, table)
    assert 0 < np.count_nonzero(shown == "") < len(shown) and "sample_frames" in before
    assert sum(record.stage == "sample_frames" for record in records(own).values()) == 1  # the videos are the same
    embedder = load_embedder(models / "clip", torch.float32, "cpu")
    for row in range(0, len(shown), 37):
        question = questions[table["question_id"][row]]
        vector = embedder.of_texts([f"{question.question} {shown[row]}"])[0][0]
        frame = embedder.of_frames(pixels_of(own, question)[table["position"][row], None])[0]
        assert np.isclose(table["logit_yes"][row], float(frame @ vector), atol=1e-5)


def test_matching_reads_what_is_said_at_a_frame(spoken: Path, own: Path, models: Path) -> None:
    template = "score_by_matching.template={subtitles} {question}"  # the tiny model reads few letters
    assert sevila("run", spoken, own, *scored_by(models, "itm", SAID[0], template)) == 0
    scores, questions = of_last_run(own)
    assert scores.record.stage == "score_by_matching"
    columns = ("question_id", "video_id", "position", "seconds", "logit_yes", "logit_no")
    table = scores.columns("frame_scores", *columns)
    shown, matcher = said_at(own, table), load_matcher(models / "itm", "cpu")
    assert 0 < np.count_nonzero(shown == "") < len(shown)
    features, clips = artifact(own, "features").open(), artifact(own, "frames").clips()  # the newest are the matcher's
    apart = []
    for row in range(0, len(shown), 37):
        question = questions[table["question_id"][row]]
        stored = clips[question.video_id, question.clip_id]["row"][table["position"][row], None]
        visual = matcher.visual(torch.from_numpy(features.read(question.video_id, stored).copy()))
        texts = [f"{words} {question.question}" for words in (shown[row], "other words")]
        no, yes = matcher.score(visual.expand(2, -1, -1), matcher.tokenize(texts)[0]).unbind(dim=1)
        assert np.isclose(table["logit_yes"][row], float(yes[0]), atol=1e-4)
        assert np.isclose(table["logit_no"][row], float(no[0]), atol=1e-4)
        apart.append(abs(float(yes[0] - yes[1])))
    assert max(apart) > 1e-3  # the texts count


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_localizer_reads_what_is_said_at_a_frame_and_scores_silent_ones_as_without(
    at_once: int, spoken: Path, own: Path
) -> None:
    columns = []
    for template in ("Is {question} answered here?{subtitles}", "Is {question} answered here?"):
        settings = (*SAID, f"score_frames.template={template}", f"score_frames.frames_at_once={at_once}")
        assert sevila("run", spoken, own, *(word for each in settings for word in ("--set", each))) == 0
        scores, _ = of_last_run(own)
        columns.append(scores.columns("frame_scores", "question_id", "video_id", "position", "seconds", "logit_yes"))
    spoken_to, silent = columns
    assert np.array_equal(spoken_to["question_id"], silent["question_id"])
    first = spoken_to["position"] // at_once * at_once  # of its stretch, whose subtitles count
    texts = said_at(own, spoken_to)[np.arange(len(first)) - spoken_to["position"] + first]
    assert np.allclose(spoken_to["logit_yes"][texts == ""], silent["logit_yes"][texts == ""], atol=1e-5)
    assert np.abs(spoken_to["logit_yes"] - silent["logit_yes"])[texts != ""].min() > 1e-5


def test_a_template_with_subtitles_of_questions_without_is_refused_before_anything_is_read(
    demo: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("score_frames.prompt=custom", "score_frames.template={question} {subtitles}")
    assert sevila("plan", demo, own, *(word for each in settings for word in ("--set", each))) == 1
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
def test_a_template_or_scorer_that_cannot_be_meant_is_one_error(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load("plain", STAGES, settings)


def test_the_full_chain_takes_neither_another_scorer_nor_a_selector_of_vectors(
    demo: Path, own: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = ("chain.kind=full", "chain.training_split=train")
    assert sevila("plan", demo, own, *scored_by(models, "clip", *full)) == 1
    assert "[chain] scorer = 'clip' is for the forward chain" in capsys.readouterr().err
    settings = [*full, "select_keyframes.selector=mdp3"]
    assert sevila("plan", demo, own, *(word for each in settings for word in ("--set", each))) == 1
    assert "[select_keyframes] selector = 'mdp3' is for the forward chain" in capsys.readouterr().err


def test_keys_and_inputs_that_came_later_change_no_identity_where_they_say_nothing_new() -> None:
    """Configs and inputs as stores hold them that were made before these keys were there."""
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
