"""Artifacts by what a person types of their ids."""

from __future__ import annotations

from cache.errors import CorruptArtifactError, StoreError, did_you_mean, repair_hint
from cache.files import refuse_link
from cache.folders import stage_of
from cache.names import every_name
from cache.record import RECORD, Record
from cache.store import Store
from cache.untrusted import is_name

MOST_NAMED = 5  # of the artifacts that an unclear id may mean


def matching(store: Store, prefix: str, lost: bool = False) -> list[str]:
    """Return the artifacts whose id, or whose id's hexadecimal part, starts with `prefix`; only that one if it is an id.

    With `lost`, also those of which only the folder is left.

    Raises:
        StoreError: none does, or the prefix is empty.
        CorruptArtifactError: what does has lost its record.
    """
    if not prefix:
        raise StoreError("an empty name stands for no artifact, although every id begins with it")
    ids = [*store, *(name for name in store.folders() if lost and store.is_lost(name))]
    ids = [name for name in ids if _starts(name, prefix)]
    if not ids:
        if is_name(prefix):
            refuse_link(store.own(prefix))
        for path in (
            store.own(name) / RECORD for name in store.folders() if store.is_lost(name) and _starts(name, prefix)
        ):
            raise CorruptArtifactError(f"{path}: is lost; {repair_hint(path)}")
        if prefix in every_name(store):
            raise StoreError(f"{prefix!r} is a run, not an artifact; `sevila runs show {prefix}` lists its artifacts")
        stages = dict.fromkeys(map(stage_of, store))
        hint = did_you_mean(prefix, [*stages, *every_name(store)])
        where = f"{store.root}{'' if store.root.is_dir() else ', where there is no store'}"
        raise StoreError(f"no artifact starts with {prefix!r} in {where}{hint}; `sevila cache ls` lists all")
    of_stage = [name for name in ids if name.rsplit("-v", 1)[0] == prefix]  # evaluate, not evaluate_moments
    return [prefix] if prefix in ids else of_stage or ids


def find(store: Store, prefix: str) -> str:
    """Return the one artifact that `matching` finds; raises `StoreError` if it finds several."""
    ids = matching(store, prefix)
    if len(ids) > 1:
        named = ", ".join(ids[:MOST_NAMED]) + (f" and {len(ids) - MOST_NAMED} more" if len(ids) > MOST_NAMED else "")
        raise StoreError(f"several artifacts start with {prefix!r}: {named}; give more of the id")
    return ids[0]


def newest(store: Store, prefix: str) -> list[Record]:
    """Return the records of what `matching` finds, the newest first."""
    return sorted(
        (store.record(id) for id in matching(store, prefix)), key=lambda record: record.finished, reverse=True
    )


def _starts(id: str, prefix: str) -> bool:
    return id.startswith(prefix) or id.rsplit("-", 1)[-1].startswith(prefix)
