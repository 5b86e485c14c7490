"""Resolving prefixes of artifact ids, as users type them."""

from __future__ import annotations

from cache.errors import CorruptArtifactError, StoreError, did_you_mean, repair_hint
from cache.files import refuse_link
from cache.folders import stage_of
from cache.names import every_name
from cache.record import RECORD, Record
from cache.store import Store
from cache.untrusted import is_name

MAX_LISTED = 5  # artifacts in the message about an ambiguous prefix


def matching(store: Store, prefix: str, lost: bool = False) -> list[str]:
    """Return the artifacts whose id, or its hexadecimal part, starts with `prefix`; an exact id matches only itself.

    Args:
        lost: whether folders that have lost their record match, too.

    Raises:
        StoreError: no artifact matches, or the prefix is empty.
        CorruptArtifactError: only artifacts that have lost their record match.
    """
    if not prefix:
        raise StoreError("an empty name; expected an artifact id, or the beginning of one")
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
        where = f"{store.root}{'' if store.root.is_dir() else ', which does not exist'}"
        raise StoreError(f"no artifact starts with {prefix!r} in {where}{hint}; `sevila cache ls` lists all")
    of_stage = [name for name in ids if stage_of(name) == prefix]  # evaluate, not evaluate_moments
    return [prefix] if prefix in ids else of_stage or ids


def find(store: Store, prefix: str) -> str:
    """Return the only artifact that `matching` returns; raises `StoreError` if there are several."""
    ids = matching(store, prefix)
    if len(ids) > 1:
        listed = ", ".join(ids[:MAX_LISTED]) + (f" and {len(ids) - MAX_LISTED} more" if len(ids) > MAX_LISTED else "")
        raise StoreError(f"several artifacts start with {prefix!r}: {listed}; give more of the id")
    return ids[0]


def newest(store: Store, prefix: str) -> list[Record]:
    """Return the records of the artifacts that `matching` returns, the newest first."""
    return sorted(map(store.record, matching(store, prefix)), key=lambda record: record.finished, reverse=True)


def _starts(id: str, prefix: str) -> bool:
    return id.startswith(prefix) or id.rsplit("-", 1)[-1].startswith(prefix)
