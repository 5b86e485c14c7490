"""Weights: the listing of named and stored weights, their description, and the lookup by name, path or id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import CheckpointError, MissingSourceError, StoreError, did_you_mean
from cache.fingerprint import file_digest
from cache.id_prefixes import newest
from cache.record import Record
from cache.store import Store
from pipeline.checkpoint_files import checkpoint_files
from pipeline.engine.places import PlaceLookup
from pipeline.engine.sources import Sources
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_prompt_weights import FILE, VisualPromptWeights
from pipeline.models.released import RELEASED
from pipeline.text_table import human_size
from stages.all import STAGES
from stages.init_answerer import AnswererWeights
from stages.init_localizer import LocalizerWeights
from stages.train_backbone import TrainedBackbone, train_backbone

PART_OF_KIND: dict[str, str] = {LocalizerWeights.kind: "Localizer", AnswererWeights.kind: "Answerer"}
REMEMBERED = "weights "  # prefix of remembered sources in a store's digests


@dataclass(frozen=True)
class WeightsLine:
    """A line of the listing; `state` says whether the weights can be used, `where` is a path, an id or a web page."""

    name: str
    what: str
    state: str
    where: str
    size_bytes: int | None = None


def weights_lines(store: Store) -> list[WeightsLine]:
    """Return configured weights, released weights without a place, those that the store remembers, and stored artifacts."""
    places = PlaceLookup({}).named("weights")
    lines = placed_weights()
    for name, released in RELEASED.items():
        if name not in places:
            lines.append(WeightsLine(name, released.title, f"not here ({released.size})", released.page))
    for source, id in sorted(store.digests.remembered_sources().items()):
        name = source.removeprefix(REMEMBERED)
        if source.startswith(REMEMBERED) and name not in places:
            lines.append(WeightsLine(name, "used in this store before", "no place given", id))
    return lines + [_stored(record) for record in weights_records(store)]


def placed_weights(places: Mapping[str, Path] | None = None) -> list[WeightsLine]:
    """Return the weights in `places`, by default the configured ones; weights that cannot be used have no size."""
    places = PlaceLookup({}).named("weights") if places is None else places
    return [_placed(name, path) for name, path in places.items()]


def weights_records(store: Store) -> list[Record]:
    """Return the records of all weights in the store, the newest first."""
    kinds = {*PART_OF_KIND, Backbone.kind}
    stages = [name for name, stage in STAGES.items() if stage.output.kind in kinds]
    records = (record for stage in stages for record in store.of_stage(stage))
    return sorted(records, key=lambda record: record.finished, reverse=True)


def _placed(name: str, path: Path) -> WeightsLine:
    what = RELEASED[name].title if name in RELEASED else "given by name"
    try:
        size = sum(file.stat().st_size for file in checkpoint_files(path))
    except (CheckpointError, OSError) as error:
        return WeightsLine(name, what, f"cannot be used: {error}", str(path))
    return WeightsLine(name, what, "here", str(path), size)


def _stored(record: Record) -> WeightsLine:
    size = sum(file["size_bytes"] for file in record.files.values())
    what = PART_OF_KIND.get(record.kind, "backbone")
    return WeightsLine(record.stage, what, f"made {record.finished[:16].replace('T', ' ')}", record.id, size)


@dataclass(frozen=True)
class NamedWeights:
    """The result of a lookup; `part` is the content of a file of our own format, `record` belongs to an artifact."""

    path: Path
    part: str = "Q-Former"
    record: Record | None = None


def weights_named(store: Store, name: str, sources: Sources) -> NamedWeights:
    """Return the weights of a name, a path, or an artifact's id or id prefix (the newest match).

    Raises:
        MissingSourceError: There are no such weights.
    """
    places = sources.places.named("weights")
    if name in places:
        return NamedWeights(sources.places.place("weights", name))
    if Path(name).exists():
        return NamedWeights(Path(name))
    if name in RELEASED:
        released = RELEASED[name]
        try:
            return NamedWeights(sources.weights_place(name))
        except MissingSourceError as error:
            published = f"{released.files} ({released.size}) are published at {released.page}"
            raise MissingSourceError(f"{error}; {published}") from error
    try:
        record = newest(store, name)[0]
    except StoreError as error:
        hint = did_you_mean(name, [*places, *RELEASED])
        raise MissingSourceError(
            f"{name!r} is no name of weights, no file or folder, and no artifact{hint}; `sevila weights ls` lists all weights"
        ) from error
    if record.kind in PART_OF_KIND:
        return NamedWeights(prompt_of(store, record).checked_file(FILE), PART_OF_KIND[record.kind], record)
    if record.stage == train_backbone.name:
        return NamedWeights(TrainedBackbone(store, record.id).path, record=record)
    if record.kind == Backbone.kind:
        return NamedWeights(sources.weights_place(Backbone(store, record.id).description()["name"]), record=record)
    raise StoreError(f"{record.id} holds {record.kind}; expected weights (`sevila weights ls` lists them)")


def prompt_of(store: Store, record: Record) -> VisualPromptWeights:
    """Return the artifact of a Localizer's or an Answerer's weights."""
    return (LocalizerWeights if record.kind == LocalizerWeights.kind else AnswererWeights)(store, record.id)


def weights_description(store: Store, name: str, sources: Sources) -> dict[str, Any]:
    """Return a description of weights as JSON values: files with sizes and SHA-256, parts, and inputs."""
    from pipeline.models.weight_parts import Q_FORMERS, open_weights

    named = weights_named(store, name, sources)
    weights = open_weights(named.path, named.part)
    parts: dict[str, dict[str, int]] = {}
    for part in weights.parts:
        parts[part] = {"tensors": len(weights.parts[part])}
        if part in Q_FORMERS:  # counting the others would read gigabytes
            parts[part]["parameters"] = weights.size(part)[1]
    content: dict[str, Any] = {"name": name, "path": str(named.path), "parts": parts}
    content["files"] = [
        {"file": file.name, "size_bytes": file.stat().st_size, "sha256": file_digest(file)}
        for file in checkpoint_files(named.path)
    ]
    if name in RELEASED:
        content["published"] = RELEASED[name]._asdict()
    if named.record is not None:
        content |= {"artifact": named.record.id, "made": named.record.finished, "made_from": named.record.inputs}
    return content


def description_text(content: dict[str, Any]) -> str:
    """Return the description as text."""
    lines = [f"{content['name']}: {content['path']}"]
    for part, facts in content["parts"].items():
        parameters = f", {facts['parameters']:,} parameters" if "parameters" in facts else ""
        lines.append(f"  {part}: {facts['tensors']} tensors{parameters}")
    lines += [f"  {file['file']}  {human_size(file['size_bytes'])}  {file['sha256']}" for file in content["files"]]
    if "published" in content:
        lines.append(f"  published at {content['published']['page']} ({content['published']['size']})")
    if "artifact" in content:
        lines.append(f"  {content['artifact']}, made {content['made'][:16].replace('T', ' ')} of")
        lines += [f"    {name} = {id or '-'}" for name, id in content["made_from"].items()]
    return "\n".join(lines)
