"""`sevila keyframes`: keyframes outside of a chain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cli.options import OutputFile, Positive
from cli.terminal import print_data


def select(
    scores: Path,
    frames: Path,
    /,
    *,
    selector: Annotated[str, Parameter(metavar="NAME")] = "top_k",
    k: Positive = 32,
    official: bool = False,
    settings: Annotated[Sequence[str], Parameter("--set", metavar="OPTION=VALUE")] = (),
    output: OutputFile = None,
) -> None:
    """Choose frames by scores made elsewhere: two JSON lists in, matched by position, a list of frame lists out.

    An entry of SCORES is one question's scores, [0.1, 0.7, ...]; the same entry of FRAMES is the numbers of those frames in the
    video, [0, 25, ...]. As AKS publishes them:

    sevila keyframes select scores.json frames.json --selector aks --k 32 -o selected_frames.json

    Args:
        scores: scores of each question's candidate frames, .json
        frames: numbers of the same frames, ascending, .json
        selector: one that needs scores only: top_k, aks, bolt, q_frame, peaks, ... (docs/selection.md)
        k: frames of each question at most
        official: as its official code chooses, oddities included (aks)
        settings: an option of the selector, such as t1=0.9 (repeatable)
        output: the file; else standard output
    """
    from cache.errors import RecipeError
    from pipeline.engine.toml_file import typed_value
    from reports.score_files import select_frames, write_frames

    options = {"official": True} if official else {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: wanted option=value, as in t1=0.9")
        options[name.strip()] = typed_value(value)
    chosen = select_frames(scores, frames, selector, k, options)
    if output is None:
        print_data(json.dumps(chosen) + "\n")
    else:
        write_frames(output, chosen)
