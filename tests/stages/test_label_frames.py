"""Pseudo-labels of the demo's frames: the Answerer's verdict on each frame alone, or a reason why there is none."""

import json
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import CorruptArtifactError
from cache.pool import part_paths
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.inference.asked_videos import MAX_PAIRS
from stages.label_frames import LabelFrames, PseudoLabels, label_frames
from stages.list_questions import Questions
from tests.stages.runs import artifact, json_rows, sevila


def context(store: Path, demo: Path, **execution: Any) -> RunContext:
    cache = Store(store)
    sources = Sources(cache.digests, {"weights": [f"tiny-blip2={demo / 'tiny-blip2'}"]})
    return RunContext(cache, device="cpu", sources=sources, **execution)


def labels(store: Path, demo: Path, questions: Questions | None = None, run: Any = None, **config: Any) -> PseudoLabels:
    inputs = [questions or artifact(store, "questions")]
    inputs += [artifact(store, kind) for kind in ("frames", "features", "backbone", "answerer_weights")]
    pseudo_labels = build(label_frames, LabelFrames(**config), run or context(store, demo), inputs)
    assert isinstance(pseudo_labels, PseudoLabels)
    return pseudo_labels


def digests(pseudo_labels: PseudoLabels) -> dict[str, str]:
    return {name: file["sha256"] for name, file in pseudo_labels.record.files.items()}


def test_a_frame_is_positive_if_it_gives_the_right_answer(store: Path, demo: Path) -> None:
    pseudo_labels = labels(store, demo)
    rows, scored = pseudo_labels.rows("pseudo_labels"), artifact(store, "frame_scores").rows("frame_scores")
    columns = ("question_id", "video_id", "position", "frame_index", "seconds")
    assert [[row[name] for name in columns] for row in rows] == [[row[name] for name in columns] for row in scored]
    questions = {row["question_id"]: row for row in artifact(store, "questions").rows("questions")}
    for row in rows:
        question = questions[row["question_id"]]
        assert len(row["option_logits"]) == len(question["options"])
        assert row["prediction"] == int(np.argmax(row["option_logits"]))
        assert row["label"] == (row["prediction"] == question["answer_index"])
    assert 0 < sum(row["label"] for row in rows) < len(rows)


def test_labels_are_answers_to_single_frames_after_the_option_prefix(store: Path, demo: Path) -> None:
    import torch

    from pipeline.models.answerer import Answerer
    from pipeline.models.prompts import answer_prompt, single_frame_prefixes

    run, backbone = context(store, demo), artifact(store, "backbone")
    weights = artifact(store, "answerer_weights").load(run, backbone, "float32")
    answerer = Answerer(weights, backbone.language(run, "float32"))
    questions = {row["question_id"]: row for row in artifact(store, "questions").rows("questions")}
    reader = artifact(store, "features").open()
    for row in labels(store, demo).rows("pseudo_labels")[::17]:
        question = questions[row["question_id"]]
        features = torch.from_numpy(reader.read(row["video_id"], slice(row["position"], row["position"] + 1)))
        text = answer_prompt(question["question"], question["options"])
        token_ids = answerer.language.verbalizer.tokenize([text]).token_ids
        visual = answerer.visual(features)[None]
        answer = answerer.answer(visual, token_ids, [len(question["options"])], single_frame_prefixes())
        np.testing.assert_allclose(row["option_logits"], answer.option_logits_forced[0].numpy(), rtol=0, atol=1e-5)


def test_verdicts_count_votes_and_give_the_reason_for_missing_labels(store: Path, demo: Path) -> None:
    pseudo_labels = labels(store, demo)
    by_question = {
        id: list(rows) for id, rows in groupby(pseudo_labels.rows("pseudo_labels"), key=lambda row: row["question_id"])
    }
    questions = {row["question_id"]: row for row in artifact(store, "questions").rows("questions")}
    verdicts = pseudo_labels.rows("verdicts")
    assert [row["question_id"] for row in verdicts] == list(questions)
    for row in verdicts:
        rows = by_question.get(row["question_id"], [])
        assert (row["status"] == "ok") == bool(rows) and row["n_frames"] == len(rows)
        if not rows:
            assert row["reason"].split(":")[0] in ("empty", "truncated")
            assert (row["vote_prediction"], row["votes"], row["any_frame_right"], row["n_yes"]) == (None, [], None, 0)
            continue
        question = questions[row["question_id"]]
        counts = np.bincount([row["prediction"] for row in rows], minlength=len(question["options"]))
        assert row["votes"] == counts.tolist() and counts[row["vote_prediction"]] == counts.max()
        assert row["n_yes"] == sum(row["label"] for row in rows) and row["any_frame_right"] == (row["n_yes"] > 0)
        assert row["vote_right"] == (row["vote_prediction"] == question["answer_index"])
    assert pseudo_labels.record.dropped == {"empty": 3, "truncated": 3}
    figures = pseudo_labels.figures()
    right = sum(bool(row["vote_right"]) for row in verdicts)
    assert figures["vote_percent"] == pytest.approx(100 * right / 30)  # questions without labels count as wrong
    assert (figures["n_questions"], figures["n_labelled"], figures["n_frames"]) == (30, 24, 192)
    assert "for 24 of 30 questions; 20.0 % without labels (3 empty, 3 truncated)" in pseudo_labels.text()


def edited(store: Path, demo: Path, folder: Path, edit: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Questions:
    """List an edited copy of the demo's questions into the store."""
    rows = [edit(number, row) for number, row in enumerate(json_rows(demo))]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = ("--annotations", str(folder / "questions.jsonl"))
    assert sevila("stage", demo, store, "list_questions", *place) == 0
    questions: Questions = artifact(store, "questions")
    return questions


def test_questions_without_a_known_answer_are_not_asked(store: Path, demo: Path, tmp_path: Path) -> None:
    questions = edited(store, demo, tmp_path, lambda number, row: row | ({"answer": ""} if number % 2 else {}))
    pseudo_labels = labels(store, demo, questions)
    unknown = {row["question_id"] for row in questions.rows("questions") if row["answer_index"] is None}
    assert len(unknown) == 15 and not unknown & {row["question_id"] for row in pseudo_labels.rows("pseudo_labels")}
    reasons = {row["question_id"]: row["reason"] for row in pseudo_labels.rows("verdicts")}
    assert {reasons[id].split(":")[0] for id in unknown} == {"no_answer"}
    assert pseudo_labels.figures()["n_known"] == 15


def test_options_are_read_by_text_as_a_second_readout(store: Path, demo: Path) -> None:
    summed, mean = (labels(store, demo, readout=readout) for readout in ("text", "text_per_token"))
    lengths = set()
    for row, other in zip(summed.rows("pseudo_labels"), mean.rows("pseudo_labels"), strict=True):
        n_tokens = np.array(row["option_logits"]) / np.array(other["option_logits"])
        np.testing.assert_allclose(n_tokens, n_tokens.round(), rtol=1e-5)
        lengths |= set(n_tokens.round().tolist())
        assert row["prediction"] == int(np.argmax(row["option_logits"])) and max(row["option_logits"]) < 0
    assert min(lengths) >= 2  # a token of text, and the end


@pytest.mark.parametrize(("readout", "pairs"), [("letter", MAX_PAIRS), ("text", MAX_PAIRS), ("letter", 9)])
def test_batch_size_and_shards_change_no_label(
    store: Path, demo: Path, tmp_path: Path, readout: str, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = labels(store, demo, readout=readout).rows("pseudo_labels")
    monkeypatch.setattr("pipeline.inference.frame_by_frame.MAX_PAIRS", pairs)
    inputs = [artifact(store, kind) for kind in ("questions", "frames", "features", "backbone", "answerer_weights")]
    run = context(tmp_path / "other", demo, batch_tokens=150, shard_bytes=6_000)
    pseudo_labels = build(label_frames, LabelFrames(readout=readout), run, inputs)
    assert len(pseudo_labels.files("pseudo_labels", ".parquet")) > (3 if pairs == MAX_PAIRS else 20)
    rows = pseudo_labels.rows("pseudo_labels")
    exact = ("question_id", "position", "frame_index", "label", "prediction", "truncated")
    assert [[row[name] for name in exact] for row in rows] == [[row[name] for name in exact] for row in expected]
    values = [np.concatenate([row["option_logits"] for row in table]) for table in (rows, expected)]
    np.testing.assert_allclose(*values, rtol=0, atol=1e-5)


def test_labelling_resumes_after_damaged_features_are_repaired(store: Path, demo: Path, tmp_path: Path) -> None:
    def run(place: str) -> RunContext:
        return context(tmp_path / place, demo, shard_bytes=6_000)

    expected = digests(labels(store, demo, run=run("whole")))
    features = artifact(store, "features")
    last = features.rows("parts")[-1]
    file, _ = part_paths(store, features.record.pool, last["key"], last["part"])
    content = features.open().read(last["video_id"], slice(0, 1)).tobytes()
    intact = file.read_bytes()
    damaged = bytearray(intact)
    damaged[intact.index(content)] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(CorruptArtifactError):
        labels(store, demo, run=run("stopped"))
    notes = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("partial/*/progress/0*.json")}
    assert notes
    file.write_bytes(intact)
    pseudo_labels = labels(store, demo, run=run("stopped"))
    assert digests(pseudo_labels) == expected
    after = {path.name: path.stat().st_mtime_ns for path in (pseudo_labels.path / "progress").glob("0*.json")}
    assert {name: after[name] for name in notes} == notes
