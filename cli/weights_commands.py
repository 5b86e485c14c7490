"""`sevila weights`: list, inspect, compare, import and export weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from cli.options import PLACE_GROUP, AsJson, Count, OutputPath, PlaceOption, StorePlace, Text, Texts, Where
from cli.terminal import print_json, print_table, print_text

Weights = Annotated[PlaceOption, Parameter(group=PLACE_GROUP)]


def ls(*, as_json: AsJson = False, where: Where) -> None:
    """List weights: those with a configured place, those that recipes need, and those in the store."""
    from pipeline.text_table import human_size
    from reports.weights import weights_lines

    lines = weights_lines(where.open())
    if as_json:
        print_json(lines)
        return
    head = ["weights", "what", "state", "size", "where"]
    sizes = [human_size(line.size_bytes) if line.size_bytes is not None else "" for line in lines]
    cells = [[line.name, line.what, line.state, size, line.where] for line, size in zip(lines, sizes, strict=True)]
    print_table(head, cells)


def show(name: Text, /, *, weights: Weights = (), as_json: AsJson = False, where: Where) -> None:
    """Show the content of weights by file and part.

    Args:
        name: name of weights, a file or folder, or an artifact's id or the beginning of it
        weights: places of named weights; default: SEVILA_WEIGHTS, sevila.toml (repeatable)
    """
    from reports.weights import description_text, weights_description

    store, sources = _store_and_sources(where, weights)
    content = weights_description(store, name, sources)
    print_json(content) if as_json else print_text(description_text(content))


def import_weights(name: Text, path: Path, /, *, where: Where) -> None:
    """Give weights a name that recipes can use, by writing their place into sevila.toml.

    sevila weights import sevila-pretrained sevila_pretrained.pth

    Args:
        name: their name in recipes, or your own: `--set init_localizer.weights=NAME`
        path: a file with official names (.pth, .safetensors), or a BLIP-2 folder in Hugging Face's layout
    """
    from pipeline.engine.places import write_weights_place
    from pipeline.models.checkpoint import check_blip2
    from pipeline.models.config import read_blip2_config
    from pipeline.models.weight_parts import open_weights

    weights = open_weights(path)
    if path.is_dir():
        check_blip2(read_blip2_config(path), path)
    file = write_weights_place(name, path)
    print_text(f"{path}: {', '.join(f'{part} ({len(names)} tensors)' for part, names in weights.parts.items())}")
    print_text(f"{name}: written to {file}")


def export(
    ids: Annotated[Texts, Parameter(metavar="ID")], /, *, output: OutputPath, weights: Weights = (), where: Where
) -> None:
    """Write trained weights for use elsewhere: under official names to a file, or as a complete BLIP-2 to a folder.

    sevila weights export refine_localizer finetune_answerer -o ours.pth

    Args:
        ids: weights of a Localizer, an Answerer or, for a file, both; beginnings of ids select the newest of one backbone
        output: .pth or .safetensors for official names; a new folder for transformers' Blip2ForConditionalGeneration
        weights: place of their BLIP-2, for a folder; default: SEVILA_WEIGHTS, sevila.toml (repeatable)
    """
    from reports.weight_export import export_weights

    store, sources = _store_and_sources(where, weights)
    print_text(export_weights(store, ids, output, sources))


def compare(
    a: Text, b: Text, /, *, shown: Count = 10, weights: Weights = (), as_json: AsJson = False, where: Where
) -> None:
    """Show which tensors of two sets of weights differ, and their maximum differences.

    Args:
        a: name of weights, a file or folder, or an artifact's id or the beginning of it
        b: likewise
        shown: number of tensors to show per part, by descending difference; with --json all
        weights: places of named weights; default: SEVILA_WEIGHTS, sevila.toml (repeatable)
    """
    from pipeline.models.weight_parts import compare_weights, open_weights
    from reports.weights import weights_named

    store, sources = _store_and_sources(where, weights)
    sides = [weights_named(store, name, sources) for name in (a, b)]
    parts = compare_weights(*(open_weights(side.path, side.part) for side in sides))
    if as_json:
        print_json([part.as_dict() for part in parts])
        return
    for part in parts:
        print_text("\n".join(part.lines(shown)))


def _store_and_sources(where: StorePlace, weights: PlaceOption) -> tuple[Any, Any]:
    from pipeline.engine.sources import Sources

    store = where.open()
    return store, Sources(store.digests, {"weights": list(weights)})
