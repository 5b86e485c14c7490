"""Why a plan rebuilds artifacts: the changes of config and inputs, followed upstream."""

from __future__ import annotations

from collections.abc import Callable

from cache.errors import CorruptArtifactError, SchemaError
from cache.lineage import differences
from cache.names import NamedRun
from cache.printable import first_of
from cache.record import Record
from cache.store import Store
from cache.tables import OR_NULL, Schema, read_stored
from pipeline.engine.dry_run import DryRun, PlannedStep
from pipeline.engine.sources import VideoFiles

VIDEOS_SHOWN = 3


def why_lines(plan: DryRun, store: Store, stage: str = "", than: NamedRun | None = None) -> list[str]:
    """Return, for each planned step that is not in the store (or each of `stage`), the changes that cause its rebuild.

    A step is compared with the artifact of its stage (in the named run `than`: of its stage and setting) that differs least;
    of equals, with the newest.
    """
    lines: list[str] = []
    last_changes: list[str] = []
    for step in plan.steps:
        if step.stage != stage if stage else step.status == "exists":
            continue
        setting = f" ({step.setting})" if step.setting else ""
        lines.append(f"{step.status:8} {step.stage:21} {step.id or '-'}{setting}".rstrip())
        reason, changes = _reason(step, plan, store, than)
        is_repeated = bool(changes) and changes == last_changes
        lines += [f"    {reason}{' the same changes as above' if is_repeated else ''}"] if reason else []
        lines += [] if is_repeated else [f"        {line}" for line in changes]
        last_changes = changes or last_changes
    return lines


def _reason(step: PlannedStep, plan: DryRun, store: Store, than: NamedRun | None) -> tuple[str, list[str]]:
    """Return a line that names the artifact that a step is compared with, or why there is none, and the changes."""
    if step.status == "exists":
        return "", []
    if step.id is None or store.exists(step.id):  # its inputs are not known yet; or it is stored, but stale
        return step.why, []
    others = _candidates(step, store, than)
    if not others:
        return f"run {than.name} has no {step.stage}" if than is not None else "never built before", []
    changes = [differences(store, other.id, step.id, plan.records, _describe_sources(plan, store)) for other in others]
    fewest = min(range(len(others)), key=lambda number: len(changes[number]))
    return f"changed from {others[fewest].id}:", changes[fewest]


def _candidates(step: PlannedStep, store: Store, than: NamedRun | None) -> list[Record]:
    """Return the records to compare a step with, the newest first."""
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
    """Return the differences of the videos from those that `frames` were sampled from; "" if its table cannot be read."""
    schema = frames.schemas.get("videos", {"version": 1, "columns": {}})
    files = [name for name in sorted(frames.files) if name.startswith("videos") and name.endswith(".parquet")]
    paths = [store.path(frames.id) / name for name in files]
    try:
        columns = Schema(schema["version"], **{name: kind + OR_NULL for name, kind in schema["columns"].items()})
        ids, digests = read_stored(paths, columns, ["video_id", "content_digest"]).values()
    except (CorruptArtifactError, SchemaError, KeyError):
        return ""
    before = dict(zip(ids, digests, strict=True))
    after = {video.video_id: video.digest for video in now.videos}
    changes = {
        "added": [id for id in after if id not in before],
        "removed": [id for id in before if id not in after],
        "changed": [id for id in after if before.get(id) and after[id] and before[id] != after[id]],
        "now missing": [id for id in after if before.get(id) and not after[id]],
        "now present": [id for id in after if id in before and not before[id] and after[id]],
    }
    parts = [f"{len(ids)} {change} ({first_of(ids, VIDEOS_SHOWN)})" for change, ids in changes.items() if ids]
    return ", ".join(parts) or "the same files, but other clips of them"
