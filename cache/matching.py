"""Artifacts by what a person types of their ids."""

from __future__ import annotations

from cache.errors import StoreError
from cache.files import refuse_link
from cache.record import Record
from cache.store import Store
from cache.untrusted import is_name


def matching(store: Store, prefix: str, lost: bool = False) -> list[str]:
    """Return the artifacts whose id, or whose id's hexadecimal part, starts with `prefix`; only that one if it is an id.

    With `lost`, also those of which only the folder is left.

    Raises:
        StoreError: none does.
    """
    ids = [*store, *(name for name in store.folders() if lost and store.is_lost(name))]
    ids = [name for name in ids if name.startswith(prefix) or name.rsplit("-", 1)[-1].startswith(prefix)]
    if not ids:
        if is_name(prefix):
            refuse_link(store.own(prefix))
        raise StoreError(f"no artifact starts with {prefix!r} in {store.root}; `sevila cache ls` lists all")
    of_stage = [name for name in ids if name.rsplit("-v", 1)[0] == prefix]  # evaluate, not evaluate_moments
    return [prefix] if prefix in ids else of_stage or ids


def find(store: Store, prefix: str) -> str:
    """Return the one artifact that `matching` finds; raises `StoreError` if it finds several."""
    ids = matching(store, prefix)
    if len(ids) > 1:
        raise StoreError(f"several artifacts start with {prefix!r}: {', '.join(ids)}; give more of the id")
    return ids[0]


def newest(store: Store, prefix: str) -> list[Record]:
    """Return the records of what `matching` finds, the newest first."""
    return sorted(
        (store.record(id) for id in matching(store, prefix)), key=lambda record: record.finished, reverse=True
    )
