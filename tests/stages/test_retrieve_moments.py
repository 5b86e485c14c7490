"""Retrieval, evaluation and export of moments: from synthetic scores with known moments, and in the chain of the demo."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.errors import CorruptArtifactError, StoreError
from cache.notes import write_note
from cache.record import RECORD, Record, describe_files
from cache.store import Store
from cli import main
from pipeline.engine.build import build
from pipeline.engine.output import Output
from pipeline.engine.stage import Artifact, RunContext
from reports.moment_submissions import submission
from stages.all import STAGES
from stages.evaluate_localization import EvaluateLocalization, evaluate_localization
from stages.evaluate_moments import EvaluateMoments, MomentMetrics, evaluate_moments
from stages.list_questions import Questions
from stages.retrieve_moments import Moments, RetrieveMoments, retrieve_moments
from stages.sample_frames import Frames
from stages.score_frames import FrameScores
from stages.select_keyframes import SelectKeyframes, select_keyframes
from tests.stages.runs import sevila

FPS = 25.0

# Ten frames of a 20 s video, one letter per frame: y for yes, n for no.
FRAME_LABELS = {"1": "nyynnnnnnn", "2": "ynnnnnnnny", "3": "nnnnnnnnnn", "4": "nyyynnyynn"}
TRUE = {"1": [[2.0, 6.0]], "2": [[0.0, 2.0], [18.0, 20.0]], "3": [[4.0, 8.0]], "5": [[0.0, 10.0]]}


def publish(store: Store, stage: str, tables: dict[str, list[dict[str, Any]]]) -> Any:
    """Publish an artifact of a stage with these rows; columns without a value are null, or else empty or 0."""
    declared = STAGES[stage]
    id = f"{stage}-v{declared.version}-{len(list(store)):020x}"
    out = Output(store.partial(id), declared)
    for name, rows in tables.items():
        schema = declared.output.tables[name]
        empty = {
            column: "" if kind == "string" else [] if "list" in kind else 0 for column, kind in schema.columns.items()
        }
        out.write_rows(name, [empty | dict.fromkeys(schema.may_be_null) | row for row in rows])
    record = Record(id, stage, declared.version, declared.output.kind, {}, {}, **out.notes())
    store.publish(record)
    return declared.output(store, id)


class World:
    """Five queries: three with known moments, one without, and one whose video failed."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.run = RunContext(self.store, device="cpu")
        questions = [
            {"question_id": id, "video_id": f"v{id}", "clip_id": f"v{id}", "question": f"query {id}", "options": []}
            for id in [*FRAME_LABELS, "5"]
        ]
        moments = [
            {"question_id": id, "start_seconds": start, "end_seconds": end}
            for id, windows in TRUE.items()
            for start, end in windows
        ]
        ratings = [
            {"question_id": id, "clip": clip, "ratings": [4.0, 4.0, 4.0] if clip == 1 else [0.0, 0.0, 0.0]}
            for id in TRUE
            for clip in range(10)
        ]
        tables = {"questions": questions, "moments": moments, "ratings": ratings, "videos": [], "rejected": []}
        self.questions: Questions = publish(self.store, "list_questions", tables)
        video = {"status": "ok", "reason": "", "frames_per_second": FPS, "n_frames_in_video": 500, "n_frames": 10}
        videos = [video | {"video_id": f"v{id}", "duration_seconds": 20.0} for id in FRAME_LABELS]
        videos.append({"video_id": "v5", "status": "failed", "reason": "empty: file of 0 bytes"})
        self.frames: Frames = publish(self.store, "sample_frames", {"videos": videos, "frames": list(self._frames())})
        self.scores: FrameScores = publish(self.store, "score_frames", {"frame_scores": list(self._scores())})

    def _frames(self) -> Any:
        for id in FRAME_LABELS:
            for position in range(10):
                row = {"clip_id": f"v{id}", "video_id": f"v{id}", "position": position, "row": position}
                yield row | {"frame_index": 25 + 50 * position, "seconds": 1.0 + 2 * position}

    def _scores(self) -> Any:
        for id, letters in FRAME_LABELS.items():
            for position, letter in enumerate(letters):
                row = {"question_id": id, "video_id": f"v{id}", "position": position, "frame_index": 25 + 50 * position}
                row |= {"seconds": 1.0 + 2 * position, "truncated": False, "logit_no": 0.0}
                yes = letter == "y"
                yield row | {"logit_yes": 1.0 if yes else -1.0 - position, "probability_yes": 0.75 if yes else 0.125}

    def retrieve(self, **config: Any) -> Any:
        return build(retrieve_moments, RetrieveMoments(**config), self.run, [self.questions, self.frames, self.scores])

    def evaluate(self, moments: Artifact) -> Any:
        return build(evaluate_moments, EvaluateMoments(), self.run, [self.questions, moments])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "store")


def windows_of(moments: Moments, id: str) -> list[list[float]]:
    rows = [row for row in moments.rows("moments") if row["question_id"] == id]
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    return [[row["start_seconds"], row["end_seconds"], row["score"]] for row in rows]


def test_runs_of_yes_frames_become_moments(world: World) -> None:
    moments = world.retrieve()
    assert windows_of(moments, "1") == [[2.0, 6.0, 0.75]]
    assert windows_of(moments, "2") == [[0.0, 2.0, 0.75], [18.0, 20.0, 0.75]]  # eight frames between: not bridged
    assert windows_of(moments, "4") == [[2.0, 16.0, (5 * 0.75 + 2 * 0.125) / 7]]
    assert windows_of(moments, "3") == windows_of(moments, "5") == []


def test_the_config_controls_bridging_threshold_and_score(world: World) -> None:
    assert windows_of(world.retrieve(span_threshold=1), "4") == [[2.0, 8.0, 0.75], [12.0, 16.0, 0.75]]
    assert windows_of(world.retrieve(span_threshold=8), "2")[0][:2] == [0.0, 20.0]
    assert windows_of(world.retrieve(yes_margin=1.0), "1") == []  # a margin is exceeded, not reached
    assert windows_of(world.retrieve(yes_margin=-1.5), "3")[0][:2] == [0.0, 2.0]
    assert windows_of(world.retrieve(score_by="max", rank_by="logit_yes"), "4") == [[2.0, 16.0, 1.0]]
    assert windows_of(world.retrieve(without_yes="best_frame"), "3") == [[0.0, 2.0, 0.125]]


def test_every_query_has_a_row_with_status_and_yes_frames(world: World) -> None:
    moments = world.retrieve()
    rows = {row["question_id"]: row for row in moments.rows("queries")}
    assert list(rows) == ["1", "2", "3", "4", "5"]
    assert [rows[id]["n_yes_frames"] for id in FRAME_LABELS] == [2, 2, 0, 5]
    assert rows["5"]["status"] == "failed" and rows["5"]["reason"] == "empty: file of 0 bytes"
    assert rows["5"]["duration_seconds"] is None and rows["5"]["n_frames"] == 0
    assert moments.record.dropped == {"empty": 1}


def test_evaluation_counts_failed_and_empty_queries_as_wrong(world: World) -> None:
    metrics: MomentMetrics = world.evaluate(world.retrieve())
    (counts,) = metrics.rows("counts")
    assert counts == {"n_queries": 4, "n_unlabelled": 1, "n_failed": 1, "n_without_moments": 1}
    rows = {(row["window_length"], row["iou_threshold"]): row for row in metrics.rows("moment_metrics")}
    assert rows["full", 0.95]["recall_at_one_percent"] == 50.0  # queries 1 and 2 of 1, 2, 3, 5
    assert rows["full", 0.95]["mean_average_precision_percent"] == 50.0
    assert rows["short", 0.5]["n_queries"] == 4 and rows["long", 0.5]["n_queries"] == 0
    assert rows["long", 0.5]["recall_at_one_percent"] is None
    report = json.loads((metrics.path / "metrics.json").read_text())
    assert report["brief"]["MR-full-mAP"] == 50.0
    assert "4 queries, of which 1 failed and 1 have no moment" in metrics.text()


def test_keyframes_and_their_ranking_are_evaluated_against_true_moments(world: World) -> None:
    chosen = build(
        select_keyframes, SelectKeyframes(k=2), world.run, [world.questions, world.frames, world.scores, None]
    )
    inputs = [world.questions, world.frames, world.scores, chosen]
    metrics: Any = build(evaluate_localization, EvaluateLocalization(ks=(1, 2, 10)), world.run, inputs)
    keyframes, first, two, ten = metrics.rows("localization")
    # Frames at 3, 5 s; at 1, 19 s; at 1, 3 s (its true ones are those at 5 and 7 s, ranked third and fourth); none.
    assert keyframes["k"] == 2 and keyframes["n_questions"] == 4 and keyframes["n_failed"] == 1
    assert keyframes["precision_percent"] == keyframes["frame_recall_percent"] == 50.0
    assert keyframes["mean_first_true_rank"] == pytest.approx((1 + 1 + 3) / 3)
    assert {name: two[name] for name in two if name != "source"} == {
        name: keyframes[name] for name in keyframes if name != "source"
    }
    assert first["moment_recall_percent"] == pytest.approx(100 * (1 + 1 / 2) / 4)
    assert ten["frame_recall_percent"] == ten["hit_percent"] == 75.0
    assert metrics.text().splitlines()[1].split()[:4] == ["keyframes", "2", "4", "1"]


def test_keyframes_chosen_without_scores_are_evaluated_without_a_ranking(world: World) -> None:
    uniform = SelectKeyframes(method="uniform", k=5)
    chosen = build(select_keyframes, uniform, world.run, [world.questions, world.frames, None, None])
    inputs = [world.questions, world.frames, None, chosen]
    (row,) = build(evaluate_localization, EvaluateLocalization(), world.run, inputs).rows("localization")
    assert row["source"] == "keyframes" and row["k"] == 5 and row["mean_first_true_rank"] is None


def test_oracle_keyframes_are_spread_over_the_frames_in_true_moments(world: World) -> None:
    def oracle(k: int) -> Any:
        cfg = SelectKeyframes(method="oracle", k=k)
        return build(select_keyframes, cfg, world.run, [world.questions, world.frames, None, None])

    rows = {row["question_id"]: row for row in oracle(2).rows("keyframes")}
    # Frames at 1, 3, ..., 19 s: two of query 1's lie in 2 to 6 s, two of query 2's in its two moments, two of query 3's.
    assert {id: rows[id]["seconds"] for id in TRUE} == {"1": [3.0, 5.0], "2": [1.0, 19.0], "3": [5.0, 7.0], "5": []}
    assert [row["positions"] for row in oracle(1).rows("keyframes")][:2] == [[2], [9]]
    assert rows["4"]["status"] == "failed" and rows["4"]["reason"].startswith("no_moments: ")
    assert rows["5"]["reason"] == "empty: file of 0 bytes"
    assert oracle(2).record.dropped == {"no_moments": 1, "empty": 1}
    inputs = [world.questions, world.frames, None, oracle(2)]
    (metrics,) = build(evaluate_localization, EvaluateLocalization(), world.run, inputs).rows("localization")
    assert metrics["precision_percent"] == metrics["frame_recall_percent"] == 75.0  # of 4, one of which failed


def test_a_moment_between_two_sampled_frames_has_no_oracle_frame_and_fails_no_video(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    moments = [{"question_id": "1", "start_seconds": 3.5, "end_seconds": 4.5}]
    tables = {"questions": world.questions.rows("questions"), "moments": moments, "videos": [], "rejected": []}
    questions = publish(world.store, "list_questions", tables)
    chosen = build(select_keyframes, SelectKeyframes(method="oracle"), world.run, [questions, world.frames, None, None])
    first = chosen.rows("keyframes")[0]
    assert first["reason"] == "no_true_frame: none of the 10 sampled frames lies in a true moment"
    inputs = [questions, world.frames, None, chosen]
    (metrics,) = build(evaluate_localization, EvaluateLocalization(), world.run, inputs).rows("localization")
    assert (metrics["n_failed"], metrics["n_without_true_frame"], metrics["hit_percent"]) == (0, 1, 0.0)


def test_a_submission_has_one_line_per_query_in_the_benchmark_format(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moments = world.retrieve()
    file = tmp_path / "submission.jsonl"
    assert main(["moments", "export", moments.id, "-o", str(file), "--store", str(world.store.root)]) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0] == {
        "qid": 1,  # a number, as in the benchmark's files
        "query": "query 1",
        "vid": "v1",
        "pred_relevant_windows": [[2.0, 6.0, 0.75]],
        "pred_saliency_scores": [0.125, 0.75, 0.75, *[0.125] * 7],
    }
    assert [line["qid"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[4]["pred_relevant_windows"] == lines[4]["pred_saliency_scores"] == []
    assert "2 queries have no window" in caplog.text and "1 whose video failed, 1 without a yes frame" in caplog.text


def test_evaluating_a_submission_gives_the_metrics_of_the_stage(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = world.retrieve()
    predictions, annotations = tmp_path / "predictions.jsonl", tmp_path / "annotations.jsonl"
    known = [row for row in submission(world.store, moments.id) if str(row["qid"]) in TRUE]
    predictions.write_text("".join(json.dumps(row) + "\n" for row in known))
    rows = [{"qid": int(id), "duration": 20, "vid": f"v{id}", "relevant_windows": TRUE[id]} for id in TRUE]
    rows = [row | {"relevant_clip_ids": [1], "saliency_scores": [[4, 4, 4]]} for row in rows]
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["moments", "evaluate", str(predictions), str(annotations), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    stage = json.loads((world.evaluate(moments).path / "metrics.json").read_text())
    assert report == stage
    assert report["HL-min-Fair"]["HL-Hit1"] == 25.0  # query 1 alone: 2 and 3 rank clip 0 highest, 5 has none


@pytest.mark.parametrize("table", ["moments", "queries"])
def test_moments_of_a_truncated_table_are_not_evaluated(world: World, table: str) -> None:
    complete = world.retrieve()
    tables = {name: complete.rows(name) for name in ("moments", "queries")}
    truncated = publish(world.store, "retrieve_moments", tables | {table: tables[table][:-2]})
    with pytest.raises(CorruptArtifactError, match=f"{truncated.id}: lacks . of the . "):
        world.evaluate(truncated)


def test_stale_moments_are_exported_with_a_warning(world: World, caplog: pytest.LogCaptureFixture) -> None:
    moments = world.retrieve()
    list(submission(world.store, moments.id))
    assert "stale" not in caplog.text
    note = world.scores.path / RECORD
    record = replace(world.scores.record, files=world.scores.record.files | describe_files(world.scores.path, []))
    write_note(note, replace(record, rows={"frame_scores": 0}).sealed("other").as_note())
    list(submission(Store(world.store.root), moments.id))
    assert f"{moments.id} is stale: " in caplog.text


def test_only_moments_can_be_exported(world: World) -> None:
    with pytest.raises(StoreError, match="holds frame_scores; expected an artifact of retrieve_moments"):
        list(submission(world.store, "score_frames"))


def test_a_moment_recipe_ends_with_moments_and_loads_no_answerer(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert sevila("run", demo, store, "--set", "score_frames.prompt=moment") == 0
    stages = {Store(store).record(id).stage for id in Store(store)}
    assert {"retrieve_moments", "evaluate_moments"} <= stages
    assert not {"init_answerer", "answer_questions", "evaluate_localization"} & stages  # no true moments are known
    assert "30 queries, none of them with known moments" in capsys.readouterr().out
    (id,) = [id for id in Store(store) if id.startswith("retrieve_moments")]
    lines = list(submission(Store(store), id))
    assert len(lines) == 30
    for query, line in zip(Moments(Store(store), id).rows("queries"), lines, strict=True):
        windows = np.array(line["pred_relevant_windows"]).reshape(-1, 3)
        assert (windows[:, 0] >= 0).all() and (windows[:, 1] <= 6.0).all() and (windows[:, 0] < windows[:, 1]).all()
        assert len(line["pred_saliency_scores"]) == (3 if query["status"] == "ok" else 0)  # 6 s of clips
