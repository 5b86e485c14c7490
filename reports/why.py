"""The change for which an artifact is rebuilt, followed upstream to its root."""

from __future__ import annotations

from collections.abc import Callable

from cache.errors import CorruptArtifactError, SchemaError
from cache.lineage import differences
from cache.names import NamedRun
from cache.printable import first_of
from cache.record import Record
from cache.store import Store
from cache.tables import Schema, read_stored
from pipeline.engine.dry_run import DryRun, PlannedStep
from pipeline.engine.sources import VideoFiles

VIDEOS_SHOWN = 3


def why_lines(plan: DryRun, store: Store, stage: str = "", than: NamedRun | None = None) -> list[str]:
    """Return, for each planned step that is not in the store (or each of `stage`), what has changed and where.

    A step is held against the artifact of its stage, or of its stage and setting in the named run `than`, to which it has the
    fewest differences; of equals, the last one.
    """
    lines: list[str] = []
    shown: list[str] = []
    for step in plan.steps:
        if step.stage != stage if stage else step.status == "exists":
            continue
        setting = f" ({step.setting})" if step.setting else ""
        lines.append(f"{step.status:8} {step.stage:21} {step.id or '-'}{setting}".rstrip())
        reason, changes = _reason(step, plan, store, than)
        same = bool(changes) and changes == shown
        lines += [f"    {reason}{' the changes just named' if same else ''}"] if reason else []
        lines += [] if same else [f"        {line}" for line in changes]
        shown = changes or shown
    return lines


def _reason(step: PlannedStep, plan: DryRun, store: Store, than: NamedRun | None) -> tuple[str, list[str]]:
    """Return what a step is held against, or why against nothing, and the changes."""
    if step.status == "exists":
        return "", []
    if step.id is None or store.exists(step.id):  # what it is to be made of is not known; it is there, and stale
        return step.why, []
    others = _candidates(step, store, than)
    if not others:
        return f"run {than.name} has no {step.stage}" if than is not None else "never made before", []
    changes = [differences(store, other.id, step.id, plan.records, _describe_sources(plan, store)) for other in others]
    fewest = min(range(len(others)), key=lambda number: len(changes[number]))
    return f"unlike {others[fewest].id}:", changes[fewest]


def _candidates(step: PlannedStep, store: Store, than: NamedRun | None) -> list[Record]:
    """Return the records to hold a step against, the last made first."""
    if than is None:
        return store.of_stage(step.stage)
    pins = [pin for pin in than.artifacts if pin.stage == step.stage and store.exists(pin.id)]
    ids = [pin.id for pin in pins if pin.setting == step.setting] or [pin.id for pin in pins]
    return sorted((store.record(id) for id in ids), key=lambda record: record.finished, reverse=True)


def _describe_sources(plan: DryRun, store: Store) -> Callable[[Record, str, str | None, str | None], str]:
    def describe(parent: Record, name: str, id_a: str | None, id_b: str | None) -> str:
        source = plan.sources.get(id_b or "")
        return _video_differences(parent, store, source) if isinstance(source, VideoFiles) else ""

    return describe


def _video_differences(frames: Record, store: Store, now: VideoFiles) -> str:
    """Say how the videos differ from those that `frames` were sampled from; "" where its table cannot be read any more."""
    schema = frames.schemas.get("videos", {"version": 1, "columns": {}})
    files = [name for name in sorted(frames.files) if name.startswith("videos") and name.endswith(".parquet")]
    paths = [store.path(frames.id) / name for name in files]
    try:
        columns = Schema(schema["version"], **schema["columns"])
        ids, digests = read_stored(paths, columns, ["video_id", "content_digest"]).values()
    except (CorruptArtifactError, SchemaError, KeyError):
        return ""
    before = dict(zip(ids, digests, strict=True))
    after = {video.video_id: video.digest for video in now.videos}
    changes = {
        "added": [id for id in after if id not in before],
        "removed": [id for id in before if id not in after],
        "changed": [id for id in after if before.get(id) and after[id] and before[id] != after[id]],
        "missing now": [id for id in after if before.get(id) and not after[id]],
        "found now": [id for id in after if id in before and not before[id] and after[id]],
    }
    parts = [f"{len(ids)} {what} ({first_of(ids, VIDEOS_SHOWN)})" for what, ids in changes.items() if ids]
    return ", ".join(parts) or "the same files, asked of for other clips"
