"""`sevila moments evaluate` on files: agreement with the benchmark's evaluator, and errors for invalid files."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli import main

REAL = Path(__file__).parents[3] / "shared" / "data" / "qvhighlights"


def annotation(qid: Any = 1, **changes: Any) -> dict[str, Any]:
    row = {"qid": qid, "query": "A dog runs.", "duration": 20, "vid": "v", "relevant_windows": [[0, 4], [10, 14]]}
    row |= {"relevant_clip_ids": [0, 1, 5, 6], "saliency_scores": [[4, 3, 2], [1, 1, 1], [2, 2, 2], [3, 3, 3]]}
    return {name: value for name, value in (row | changes).items() if value is not ...}


def prediction(qid: Any = 1, **changes: Any) -> dict[str, Any]:
    row = {"qid": qid, "query": "A dog runs.", "vid": "v", "pred_relevant_windows": [[0, 4, 0.9], [9, 14, 0.5]]}
    row |= {"pred_saliency_scores": [0.9, 0.1, 0, 0, 0, 0.8, 0.3, 0, 0, 0]}
    return {name: value for name, value in (row | changes).items() if value is not ...}


class Files:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.predictions, self.annotations = folder / "predictions.jsonl", folder / "annotations.jsonl"
        self._capsys = capsys

    def write(self, path: Path, rows: list[Any]) -> None:
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")

    def evaluate(self, predictions: list[Any], annotations: list[Any], *more: str) -> dict[str, Any]:
        self.write(self.predictions, predictions)
        self.write(self.annotations, annotations)
        assert main(["moments", "evaluate", str(self.predictions), str(self.annotations), "--json", *more]) == 0
        report: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return report

    def error(self, predictions: list[Any], annotations: list[Any]) -> str:
        self.write(self.predictions, predictions)
        self.write(self.annotations, annotations)
        assert main(["moments", "evaluate", str(self.predictions), str(self.annotations)]) == 1
        printed = self._capsys.readouterr()
        assert not printed.out
        return printed.err


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    return Files(tmp_path, capsys)


@pytest.mark.skipif(not REAL.exists(), reason="the benchmark's files lie outside the repository")
def test_metrics_of_published_predictions_equal_the_official_evaluator(capsys: pytest.CaptureFixture[str]) -> None:
    # Moment-DETR's published predictions for QVHighlights val, and the output of the official evaluator for them.
    names = ("moment_detr_val_preds.jsonl", "highlight_val_release.jsonl")
    assert main(["moments", "evaluate", *(str(REAL / name) for name in names), "--json"]) == 0
    assert capsys.readouterr().out.strip() == (REAL / "moment_detr_val_preds_metrics.json").read_text().strip()


@pytest.mark.skipif(not REAL.exists(), reason="the benchmark's files lie outside the repository")
def test_windows_slightly_past_the_end_of_a_video_log_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    # The published baseline itself has three, up to 6 s past the end of a 144 s video.
    names = ("moment_detr_val_preds.jsonl", "highlight_val_release.jsonl")
    assert main(["moments", "evaluate", *(str(REAL / name) for name in names)]) == 0
    assert "3 predicted windows end after their video, by up to 6 s" in caplog.text


def test_windows_and_saliency_are_evaluated(files: Files) -> None:
    report = files.evaluate([prediction()], [annotation()])
    # Windows: IoU 1 and 4/5. Saliency at Fair: clip 0 is right for all; of clips 5 and 6 both are; ranks 1, 2, 3.
    assert report["brief"]["MR-full-R1@0.7"] == 100.0
    assert report["full"]["MR-mAP"]["0.8"] == 100.0 and report["full"]["MR-mAP"]["0.85"] == 50.0
    assert report["HL-min-Fair"] == {"HL-mAP": 100.0, "HL-Hit1": 100.0}
    assert report["long"]["MR-R1"]["0.5"] is None


def test_a_table_is_printed_without_json(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    files.evaluate([prediction()], [annotation()])
    assert main(["moments", "evaluate", str(files.predictions), str(files.annotations)]) == 0
    printed = capsys.readouterr().out
    assert "R1 full" in printed and "VeryGood" in printed


def test_line_order_does_not_change_the_metrics(files: Files) -> None:
    annotations = [annotation(1), annotation(2, relevant_windows=[[6, 16]])]
    predictions = [prediction(1), prediction(2, pred_relevant_windows=[[6, 15, 1.0]])]
    assert files.evaluate(predictions, annotations) == files.evaluate(predictions[::-1], annotations)


def test_a_byte_order_mark_crlf_and_text_ids_are_accepted(files: Files) -> None:
    files.write(files.predictions, [prediction("v/1:2")])
    files.write(files.annotations, [annotation("v/1:2", query="ein Hündchen läuft")])
    files.annotations.write_bytes(b"\xef\xbb\xbf" + files.annotations.read_bytes().replace(b"\n", b"\r\n"))
    assert main(["moments", "evaluate", str(files.predictions), str(files.annotations)]) == 0


def test_files_with_only_windows_or_only_saliency_are_evaluated(files: Files) -> None:
    assert "HL-min-Fair" not in files.evaluate([prediction(pred_saliency_scores=...)], [annotation()])
    report = files.evaluate([prediction(pred_relevant_windows=...)], [annotation()])
    assert "full" not in report and "MR-full-mAP" not in report["brief"] and "HL-min-Fair" in report


def test_annotations_without_saliency_skip_highlight_metrics(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    bare = annotation(saliency_scores=..., relevant_clip_ids=...)
    assert "HL-min-Fair" not in files.evaluate([prediction()], [bare])
    assert "pred_saliency_scores are not evaluated" in caplog.text
    assert "1 of 2 queries have no relevant_clip_ids" in files.error(
        [prediction(), prediction(2)], [bare, annotation(2)]
    )


def test_a_query_without_windows_counts_as_wrong(files: Files) -> None:
    report = files.evaluate([prediction(), prediction(2, pred_relevant_windows=[])], [annotation(), annotation(2)])
    assert report["brief"]["MR-full-R1@0.5"] == 50.0


def test_missing_and_unknown_queries_are_named(files: Files) -> None:
    message = files.error([prediction(2), prediction(7)], [annotation(1), annotation(2), annotation(3)])
    assert "2 of 3 are not predicted (qid 1, 3)" in message and "1 of 2 are not annotated (qid 7)" in message


def test_an_integer_id_and_the_equal_text_id_are_different_queries(files: Files) -> None:
    assert "(qid 1), 1 of 1 are not annotated (qid '1')" in files.error([prediction("1")], [annotation(1)])


@pytest.mark.parametrize("side", ["predictions", "annotations"])
def test_a_duplicate_query_error_names_both_lines(files: Files, side: str) -> None:
    rows = {"predictions": [prediction(1), prediction(2)], "annotations": [annotation(1), annotation(2)]}
    rows[side] += rows[side][1:]
    message = files.error(**rows)
    assert f"{side}.jsonl: line 3 (qid 2): query 2 is already on line 2" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"qid": ...}, "no qid; found only query, vid"),
        ({"qid": 1.5}, "qid is 1.5; expected an integer or a string"),
        ({"qid": True}, "qid is true"),
        ({"qid": ""}, 'qid is ""'),
        ({"vid": 3}, "vid is 3; expected a string"),
        ({"pred_relevant_windows": None}, "pred_relevant_windows is null; expected a list of [start, end, score]"),
        ({"pred_relevant_windows": {"a": 1}}, 'pred_relevant_windows is {"a": 1}'),
        ({"pred_relevant_windows": [[0, 4]]}, "pred_relevant_windows has [0, 4]; expected [start, end, score]"),
        ({"pred_relevant_windows": [0, 4, 0.9]}, "pred_relevant_windows has 0; expected [start, end, score]"),
        ({"pred_relevant_windows": [["0", 4, 0.9]]}, 'pred_relevant_windows, start is "0"; expected a number'),
        ({"pred_relevant_windows": [[0, True, 0.9]]}, "pred_relevant_windows, end is true; expected a number"),
        (
            {"pred_relevant_windows": [[0, 4, float("nan")]]},
            "pred_relevant_windows, score is NaN; expected a finite number",
        ),
        ({"pred_relevant_windows": [[0, float("inf"), 1]]}, "pred_relevant_windows, end is Infinity"),
        ({"pred_relevant_windows": [[10**400, 4, 1]]}, "expected a finite number"),
        ({"pred_relevant_windows": [[8, 4, 0.9]]}, "predicted window 8 to 4 s is reversed; expected start <= end"),
        ({"pred_saliency_scores": "high"}, 'pred_saliency_scores is "high"; expected a list of one number per clip'),
        ({"pred_saliency_scores": [0.1, None]}, "pred_saliency_scores is null; expected a number"),
        ({"pred_saliency_scores": [float("nan")]}, "pred_saliency_scores is NaN; expected a finite number"),
    ],
)
def test_an_invalid_prediction_error_names_its_line(files: Files, changes: dict[str, Any], expected: str) -> None:
    message = files.error([prediction(2), prediction(**changes)], [annotation(1), annotation(2)])
    assert f"{files.predictions}: line 2" in message and expected in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"duration": ...}, "no duration"),
        ({"duration": "long"}, "duration is 'long', a number of seconds was wanted"),
        ({"duration": 0}, "duration is 0; expected seconds above 0"),
        ({"relevant_windows": ...}, "no relevant_windows"),
        ({"relevant_windows": []}, "relevant_windows is empty; expected at least one window"),
        ({"relevant_windows": [[4, 4]]}, "relevant window 4 to 4 s; expected a start before the end"),
        ({"relevant_windows": [[4, 3]]}, "relevant window 4 to 3 s; expected a start before the end"),
        ({"relevant_windows": [[30, 40]]}, "holds 30 to 40 s, which lies outside the video (0 to 20 s)"),
        (
            {"relevant_clip_ids": [0, 1, 5]},
            "4 saliency_scores for relevant_clip_ids [0, 1, 5]; expected one for each clip",
        ),
        ({"relevant_clip_ids": [0, 1, 5, 10]}, "relevant_clip_ids has 10; expected numbers from 0 to 9"),
        ({"saliency_scores": [[1, 2]] * 4}, "saliency_scores has [1, 2]; expected [rating 1, rating 2, rating 3]"),
    ],
)
def test_an_invalid_annotation_error_names_its_line(files: Files, changes: dict[str, Any], expected: str) -> None:
    message = files.error([prediction(1), prediction(2)], [annotation(2), annotation(1, **changes)])
    assert f"{files.annotations}: line 2 (qid 1): " in message and expected in message


def test_truncated_lines_and_lines_without_a_json_object_are_errors(files: Files) -> None:
    truncated = json.dumps(prediction(2))[:40]
    message = files.error([prediction(1), truncated, "[1, 2]"], [annotation(1), annotation(2)])
    assert "line 2: not JSON" in message and "line 3: a JSON list, an object was wanted" in message


def test_invalid_lines_after_the_fifth_are_counted(files: Files) -> None:
    bad = [prediction(number, vid=0) for number in range(9)]
    message = files.error(bad, [annotation(number) for number in range(9)])
    assert message.count("expected a string") == 5 and message.strip().endswith("and 4 more")


@pytest.mark.parametrize("window", [[-3, 4, 1], [140, 160, 1], [20, 24, 1], [200, 210, 1], [16, 153, 1]])
def test_a_window_outside_its_video_is_refused_unless_allowed(files: Files, window: list[float]) -> None:
    predictions, annotations = [prediction(pred_relevant_windows=[window])], [annotation()]
    message = files.error(predictions, annotations)
    assert f"window {window[0]} to {window[1]} s lies outside its video (0 to 20 s)" in message
    assert files.evaluate(predictions, annotations, "--allow-outside")["brief"]["MR-full-R1@0.7"] in (0.0, 100.0)


def test_a_window_slightly_past_the_annotated_duration_is_evaluated(files: Files) -> None:
    windows = [[0, 150.1, 1]]  # as exported from a video of 75 clips that holds 150.1 s
    report = files.evaluate([prediction(pred_relevant_windows=windows)], [annotation(duration=150)])
    assert report["brief"]["MR-full-R1@0.7"] in (0.0, 100.0)


def test_a_prediction_for_another_video_is_refused(files: Files) -> None:
    message = files.error([prediction(vid="w")], [annotation()])
    assert "qid 1: the predicted video is 'w', the annotated 'v'" in message


def test_annotations_without_published_answers_are_an_error_that_names_the_test_split(files: Files) -> None:
    # The benchmark's test split has only qid, query, duration and vid.
    unlabelled = {"qid": 1, "query": "A dog runs.", "duration": 20, "vid": "v"}
    message = files.error([prediction()], [unlabelled])
    assert "found no relevant_windows (only qid, query, duration, vid)" in message and "test split" in message


def test_predictions_without_windows_for_some_queries_are_an_error(files: Files) -> None:
    message = files.error([prediction(1), prediction(2, pred_relevant_windows=...)], [annotation(1), annotation(2)])
    assert "1 of 2 queries have no pred_relevant_windows: qid 2" in message


def test_swapped_files_are_an_error(files: Files) -> None:
    message = files.error([annotation()], [prediction()])
    names = "qid, query, duration, vid, relevant_windows"
    assert f"found neither pred_relevant_windows nor pred_saliency_scores (only {names}" in message
    assert "found no relevant_windows (only qid, query, vid, pred_" in files.error([prediction()], [prediction()])


def test_a_missing_or_empty_file_is_an_error(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the file is empty" in files.error([], [annotation()])
    assert main(["moments", "evaluate", str(tmp_path / "none.jsonl"), str(files.annotations)]) == 1
    assert "none.jsonl: cannot be read" in capsys.readouterr().err
