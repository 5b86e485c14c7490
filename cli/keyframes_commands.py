"""`sevila keyframes`: select keyframes by external scores, and export keyframes for other models."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from cli.options import (
    PLACE_GROUP,
    OutputFile,
    OutputPath,
    PlaceOption,
    Positive,
    Text,
    Where,
    refuse_other_suffix,
    refuse_overwriting,
)
from cli.terminal import print_text, write_data

# Decoders misread smaller clips, encoders refuse larger ones.
Height = Annotated[Positive, Parameter(validator=Number(gte=16, lte=8192))]


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
    """Select frames by external scores: two JSON lists in, matched by position, a list of frame lists out.

    An entry of SCORES holds one question's scores, [0.1, 0.7, ...]; the same entry of FRAMES holds the numbers of these frames
    in the video, [0, 25, ...]. This is the format of AKS:

    sevila keyframes select scores.json frames.json --selector aks --k 32 -o selected_frames.json

    Args:
        scores: scores of each question's candidate frames, .json
        frames: numbers of the same frames, ascending, .json
        selector: a selector that needs only scores (docs/selection.md lists them)
        k: maximum number of frames per question
        official: reproduce the official code, including its deviations from the paper (aks)
        settings: an option of the selector, such as t1=0.9 (repeatable)
        output: the file; default: standard output
    """
    from cache.errors import RecipeError
    from pipeline.engine.toml_file import typed_value
    from reports.score_files import select_frames

    refuse_overwriting(output, scores, frames)
    refuse_other_suffix(output, (".json",), "a list of frame lists")
    options = {"official": True} if official else {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: expected option=value, as in t1=0.9")
        options[name.strip()] = typed_value(value)
    chosen = select_frames(scores, frames, selector, k, options)
    write_data(json.dumps(chosen) + "\n" * (output is None), output)


def export(
    run: Text,
    /,
    *,
    output: OutputPath,
    kind: Annotated[Literal["table", "aks", "images", "clips", "lmms-eval"], Parameter("--as")] = "table",
    videos: Annotated[PlaceOption, Parameter(group=PLACE_GROUP)] = (),
    height: Height | None = None,
    processes: Positive = 2,
    where: Where,
) -> int:
    """Write the keyframes of a run for another model.

    images: one .jpg per keyframe. clips: one .mp4 per question that holds only its keyframes, so that a model that samples k
    frames uniformly, as in most evaluation harnesses, gets exactly these. keyframes.json in the folder maps the files to
    questions. lmms-eval: a task of clips and questions for its --include_path.

    sevila keyframes export select_keyframes -o keyframes.parquet

    Args:
        run: name of a run (`sevila runs`), or id of an artifact of select_keyframes, or its beginning, which selects the newest
        output: a file (.parquet or .json for a table, .json for aks), or an empty folder (images, clips, lmms-eval)
        kind: the format; aks: a list of frame lists in the order of the annotations
        videos: folder of the videos, for images and clips; default: SEVILA_VIDEOS, sevila.toml (repeatable)
        height: height of images and clips in pixels; default: the videos' own
        processes: number of videos read in parallel
    """
    from pipeline.engine.sources import Sources
    from reports.keyframe_export import KeyframesOfRun, failures_text, write_pictures, write_table
    from reports.lmms_task import write_task

    suffixes = {"table": (".parquet", ".json"), "aks": (".json",)}.get(kind)
    if suffixes:
        refuse_other_suffix(output, suffixes, f"--as {kind}")
    store = where.open()
    keyframes = KeyframesOfRun(store, run)
    print(keyframes.id, file=sys.stderr)
    keyframes.warn_of_empty()
    if kind == "table":
        write_table(keyframes, output)
    elif kind == "aks":
        write_data(json.dumps([row.frame_indices for row in keyframes.rows]), output)
    else:
        sources = Sources(store.digests, {"videos": list(videos)})
        failures = write_pictures(keyframes, sources, output, kind, height, processes)
        if kind == "lmms-eval":
            name = write_task(keyframes, output)
            print_text(
                f"lmms-eval --include_path {shlex.quote(str(output))} --tasks {name} --model ... --model_args ..."
            )
        if failures:
            print_text(failures_text(failures))
            return 1
    return 0
