"""`sevila moments`: evaluate, use and write submission files of moment retrieval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cli.options import OutputFile, Text, Where, refuse_overwriting
from cli.terminal import print_data, print_text, printable_json, write_data


def evaluate(
    predictions: Path,
    annotations: Path,
    /,
    *,
    as_json: Annotated[bool, Parameter("--json")] = False,
    allow_outside: bool = False,
) -> None:
    """Evaluate a predictions file by the benchmark's metrics.

    Args:
        predictions: a submission, .jsonl
        annotations: the split's annotations as downloaded, .jsonl
        as_json: print JSON in the layout of the benchmark's evaluator
        allow_outside: accept windows outside their video, which are otherwise an error
    """
    from pipeline.metrics.moment_metrics import format_report
    from reports.moment_submissions import evaluate_files

    report = evaluate_files(predictions, annotations, allow_outside)
    if as_json:
        print_data(json.dumps(report, indent=4) + "\n")
    else:
        print_text(format_report(report))


def scores(predictions: Path, id: Text, /, *, output: OutputFile = None, where: Where) -> None:
    """Write the windows of a predictions file as scores of frames, .jsonl: the selector `spans` selects in the best window.

    Args:
        predictions: a submission, .jsonl, whose qids are the questions' ids, and whose windows are seconds of the video
        id: artifact id of select_keyframes, or the beginning of it, for the same questions and frames
        output: the table; default: standard output
    """
    from reports.moment_submissions import span_scores

    refuse_overwriting(output, predictions)
    write_data("".join(json.dumps(row) + "\n" for row in span_scores(where.open(), id, predictions)), output)


def export(id: Text, /, *, output: OutputFile = None, where: Where) -> None:
    """Write retrieved moments as a submission file.

    Args:
        id: artifact id of retrieve_moments, or the beginning of it
        output: the file; default: standard output
    """
    from reports.moment_submissions import submission_text

    text = submission_text(where.open(), id)
    write_data(text if output is not None else printable_json(text), output)
