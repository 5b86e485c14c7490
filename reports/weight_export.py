"""Weights of the store, written for others: official names, or a BLIP-2 folder with our Q-Former."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from cache.errors import SevilaError
from cache.matching import newest
from cache.record import Record
from cache.store import Store
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_prompt_weights import FILE
from reports.weights import PART_OF_KIND, prompt_of
from stages.train_backbone import TrainedBackbone, train_backbone

# Of files that are not written here: a folder is hardly called so.
OTHER_SUFFIXES = (
    ".bin",
    ".ckpt",
    ".csv",
    ".gguf",
    ".gz",
    ".h5",
    ".json",
    ".npz",
    ".onnx",
    ".pkl",
    ".pt",
    ".tar",
    ".toml",
    ".txt",
    ".zip",
)


def export_weights(store: Store, ids: Sequence[str], output: Path, sources: Sources) -> str:
    """Write the weights of one or two artifacts, and return what was written, in words.

    Args:
        ids: of Localizer or Answerer weights, or the beginnings, which take the newest; of two, the newest of one backbone.
        output: a file (.safetensors or .pth) gets official names, of a Localizer, an Answerer or both; a folder a whole BLIP-2.

    Raises:
        SevilaError: what was asked for cannot be written so.
    """
    from pipeline.models.export import FILE_SUFFIXES, Part, write_blip2, write_official
    from pipeline.models.tensors import open_checkpoint

    candidates = [_weights(store, id) for id in ids]
    names = [PART_OF_KIND[records[0].kind] for records in candidates]
    if len(set(names)) < len(names):
        raise SevilaError(f"{' and '.join(ids)} are both weights of the {names[0]}; wanted a Localizer and an Answerer")
    prompts = [prompt_of(store, record) for record in _of_one_backbone(store, candidates)]
    states = [{name: read() for name, read in open_checkpoint(prompt.checked_file(FILE)).items()} for prompt in prompts]
    what = " and ".join(f"{name} {prompt.id}" for name, prompt in zip(names, prompts, strict=True))
    if output.suffix in FILE_SUFFIXES:
        parts: dict[Part, object] = {name.lower(): state for name, state in zip(names, states, strict=True)}  # type: ignore[misc]
        write_official(parts, output)  # type: ignore[arg-type]
        return f"{output}: {what}, by the official names; `sevila weights import NAME {output}` takes it in elsewhere"
    if output.suffix.lower() in OTHER_SUFFIXES:
        raise SevilaError(
            f"{output}: ends as a file does; wanted {' or '.join(FILE_SUFFIXES)}, or for a folder a name without such an ending"
        )
    if len(prompts) > 1:
        raise SevilaError(
            f"{output}: a BLIP-2 folder has one Q-Former; give one id, or for both a file that ends in "
            f"{' or '.join(FILE_SUFFIXES)}"
        )
    backbone = _backbone(store, prompts[0].record)
    with backbone.folder(RunContext(store, device="cpu", sources=sources)) as folder:
        write_blip2(folder, states[0], output)
    return f"{output}: BLIP-2 with the Q-Former of {what}; transformers' Blip2ForConditionalGeneration loads it"


def _weights(store: Store, prefix: str) -> list[Record]:
    """Return the records of weights of one kind, the newest first."""
    records = newest(store, prefix)
    kind = records[0].kind
    if kind not in PART_OF_KIND:
        raise SevilaError(
            f"{records[0].id} holds {kind}; wanted weights of a Localizer or an Answerer (`sevila weights ls` lists them)"
        )
    return [record for record in records if record.kind == kind]


def _of_one_backbone(store: Store, candidates: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """Return the newest record of each that belong to one backbone; raises `SevilaError` if there are none."""
    of = {record.id: _identity(store, record) for records in candidates for record in records}
    for records in sorted(product(*candidates), key=lambda each: sorted(r.finished for r in each)[::-1], reverse=True):
        if len({of[record.id] for record in records}) == 1:
            return records
    belong = " and ".join(f"{each[0].id} belongs to {each[0].inputs.get('backbone')}" for each in candidates)
    raise SevilaError(f"{belong}: a Localizer and an Answerer of one backbone were wanted; export each by itself")


def _identity(store: Store, weights: Record) -> object:
    """Return what identifies the backbone that weights belong to: its files, or its id where it holds its own."""
    id = weights.inputs.get("backbone")
    try:
        return frozenset(_backbone(store, weights).description()["files"].values()) or id
    except SevilaError:  # it is no longer in the store
        return id


def _backbone(store: Store, weights: Record) -> Backbone:
    id = str(weights.inputs["backbone"])
    is_trained = store.record(id).stage == train_backbone.name
    return (TrainedBackbone if is_trained else Backbone)(store, id)
