"""`sevila keyframes`: keyframes by scores made elsewhere, and for models that run elsewhere."""

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
    """Choose frames by scores made elsewhere: two JSON lists in, matched by position, a list of frame lists out.

    An entry of SCORES is one question's scores, [0.1, 0.7, ...]; the same entry of FRAMES is the numbers of those frames in the
    video, [0, 25, ...]. As AKS publishes them:

    sevila keyframes select scores.json frames.json --selector aks --k 32 -o selected_frames.json

    Args:
        scores: scores of each question's candidate frames, .json
        frames: numbers of the same frames, ascending, .json
        selector: one that needs scores only (docs/selection.md lists them)
        k: frames of each question at most
        official: as its official code chooses, oddities included (aks)
        settings: an option of the selector, such as t1=0.9 (repeatable)
        output: the file; else standard output
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
            raise RecipeError(f"--set {setting}: wanted option=value, as in t1=0.9")
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

    As images (one .jpg a keyframe), or as clips: one .mp4 a question that holds just its keyframes, so that whatever takes k
    frames of it evenly, as most evaluation harnesses do, sees exactly these. keyframes.json beside them says which is whose. As
    lmms-eval: a task of clips and questions for its --include_path.

    sevila keyframes export select_keyframes -o keyframes.parquet

    Args:
        run: name of a run (`sevila runs`), or id of an artifact of select_keyframes, or its beginning, which takes the newest
        output: a file (.parquet or .json for a table, .json for aks), or an empty folder (images, clips, lmms-eval)
        kind: what to write; aks: a list of frame lists in the order of the annotations
        videos: folder of the videos, for images and clips; else SEVILA_VIDEOS, sevila.toml (repeatable)
        height: of images and clips, in pixels; else the videos' own
        processes: videos that are read at the same time
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
