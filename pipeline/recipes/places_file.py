"""The template of `sevila.toml`: the names of data and weights in the recipes, as lines to fill in."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.engine.recipe import Recipe

HEAD = """\
# Paths of data and weights on this machine. Remove the "#" before a line, and write your path.
# A path is relative to this file. What is given on the command line (--annotations, --videos, --weights), or in
# SEVILA_ANNOTATIONS, SEVILA_VIDEOS and SEVILA_WEIGHTS, comes first. Nothing here is part of a result's identity.
"""
KINDS_TEXT = {
    "annotations": "Annotation file of a data set, or folder of the files as downloaded.",
    "videos": "Folder of its videos.",
    "weights": "Folder or file of weights. A name OWNER/MODEL without a line here is the Hugging Face Hub's, see --download.",
}


def places_text(recipes: Iterable[Recipe]) -> str:
    """Return a config file with a commented line for each name of these recipes; empty sections have no effect."""
    names: dict[str, dict[str, None]] = {kind: {} for kind in KINDS_TEXT}
    for recipe in recipes:
        if recipe.chain.backbone == "trained":  # has generated data
            continue
        datasets = [recipe.config_of("list_questions").dataset, recipe.chain.pretraining_dataset]
        weights = [recipe.config_of(stage).weights for stage in ("import_backbone", "init_localizer", "init_answerer")]
        for kind, used in (("annotations", datasets), ("videos", datasets), ("weights", weights)):
            names[kind] |= dict.fromkeys(filter(None, used))
    parts = [HEAD]
    for kind, about in KINDS_TEXT.items():
        lines = [f'# "{name}" = "{_example(kind, name)}"' for name in names[kind]]
        parts.append("\n".join([f"[{kind}]", f"# {about}", *lines, ""]))
    return "\n".join(parts)


def _example(kind: str, name: str) -> str:
    folder = f"/path/to/{name.rpartition('/')[2]}"
    return f"{folder}/videos" if kind == "videos" else folder
