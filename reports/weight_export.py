"""Export of stored weights: a file with the official tensor names, or a BLIP-2 folder with our Q-Former."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from cache.errors import SevilaError
from cache.id_prefixes import newest
from cache.record import Record
from cache.store import Store
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_prompt_weights import FILE
from reports.weights import PART_OF_KIND, prompt_of
from stages.train_backbone import TrainedBackbone, train_backbone

# Suffixes of files that we do not write; a path with one of them is unlikely to mean a folder.
FOREIGN_SUFFIX = re.compile(r"\.(bin|ckpt|csv|gguf|gz|h5|json|npz|onnx|pkl|pt|tar|toml|txt|zip)")


def export_weights(store: Store, ids: Sequence[str], output: Path, sources: Sources) -> str:
    """Write the weights of one or two artifacts, and return a message that describes the output.

    Args:
        ids: Ids or id prefixes of Localizer or Answerer weights; of several matches the newest, for two of one backbone.
        output: A file (.safetensors or .pth) for weights with the official names, or a folder for a whole BLIP-2.

    Raises:
        SevilaError: The weights cannot be written in this form.
    """
    from pipeline.models.export import FILE_SUFFIXES, Part, write_blip2, write_official
    from pipeline.models.tensors import open_checkpoint

    candidates = [_weights(store, id) for id in ids]
    names = [PART_OF_KIND[records[0].kind] for records in candidates]
    if len(set(names)) < len(names):
        raise SevilaError(
            f"{' and '.join(ids)} are both weights of the {names[0]}; expected a Localizer and an Answerer"
        )
    prompts = [prompt_of(store, record) for record in _of_one_backbone(store, candidates)]
    states = [{name: read() for name, read in open_checkpoint(prompt.checked_file(FILE)).items()} for prompt in prompts]
    sources_text = " and ".join(f"{name} {prompt.id}" for name, prompt in zip(names, prompts, strict=True))
    if output.suffix in FILE_SUFFIXES:
        parts: dict[Part, object] = {name.lower(): state for name, state in zip(names, states, strict=True)}  # type: ignore[misc]
        write_official(parts, output)  # type: ignore[arg-type]
        return f"{output}: {sources_text}, with the official names; `sevila weights import NAME {output}` imports it elsewhere"
    if FOREIGN_SUFFIX.fullmatch(output.suffix.lower()):
        raise SevilaError(
            f"{output}: has the suffix of another file type; expected {' or '.join(FILE_SUFFIXES)}, or the name of a folder"
        )
    if len(prompts) > 1:
        raise SevilaError(
            f"{output}: a BLIP-2 folder has one Q-Former; give one id, or a file name with {' or '.join(FILE_SUFFIXES)} for both"
        )
    backbone = _backbone(store, prompts[0].record)
    with backbone.folder(RunContext(store, device="cpu", sources=sources)) as folder:
        write_blip2(folder, states[0], output)
    return f"{output}: BLIP-2 with the Q-Former of {sources_text}; transformers' Blip2ForConditionalGeneration loads it"


def _weights(store: Store, prefix: str) -> list[Record]:
    """Return the records of weights of one kind, the newest first."""
    records = newest(store, prefix)
    kind = records[0].kind
    if kind not in PART_OF_KIND:
        raise SevilaError(
            f"{records[0].id} holds {kind}; expected weights of a Localizer or an Answerer (`sevila weights ls` lists them)"
        )
    return [record for record in records if record.kind == kind]


def _of_one_backbone(store: Store, candidates: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """Return the newest combination of records with a common backbone; raises `SevilaError` if there is none."""

    def newest_first(records: Sequence[Record]) -> list[str]:
        return sorted((record.finished for record in records), reverse=True)

    backbones = {record.id: _backbone_identity(store, record) for records in candidates for record in records}
    for records in sorted(product(*candidates), key=newest_first, reverse=True):
        if len({backbones[record.id] for record in records}) == 1:
            return records
    owners = " and ".join(f"{records[0].id} belongs to {records[0].inputs.get('backbone')}" for records in candidates)
    raise SevilaError(f"{owners}; expected a Localizer and an Answerer of one backbone (or export each by itself)")


def _backbone_identity(store: Store, weights: Record) -> object:
    """Return the identity of the backbone of weights: the digests of its files, or its id if it has none."""
    id = weights.inputs.get("backbone")
    try:
        return frozenset(_backbone(store, weights).description()["files"].values()) or id
    except SevilaError:  # it is no longer in the store
        return id


def _backbone(store: Store, weights: Record) -> Backbone:
    id = str(weights.inputs["backbone"])
    is_trained = store.record(id).stage == train_backbone.name
    return (TrainedBackbone if is_trained else Backbone)(store, id)
