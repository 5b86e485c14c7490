"""The dependencies of kept artifacts: everything upstream and their parts of the pool; an error if damage hides them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cache.errors import CorruptArtifactError, SevilaError, StoreError
from cache.pool_listing import PartId, references
from cache.record import DROPPED, RECORD, Record, artifact_id
from cache.store import Store


def with_upstream(store: Store, records: dict[str, Record], reasons: dict[str, str]) -> dict[str, str]:
    """Return the reason for each kept id: for those in `reasons`, and for everything upstream of them."""
    kept, waiting = dict(reasons), list(reasons)
    while waiting:
        id = waiting.pop()
        is_spare = any(map(Path.exists, _spare_records(store, id)))
        if not store.exists(id) and not is_spare:  # a source, or an artifact that is not made yet
            _refuse_lost(store, id, kept[id])
            continue
        try:
            record = records.get(id) or (store.record(id) if store.exists(id) else _spare_record(store, id))
        except CorruptArtifactError as error:
            raise CorruptArtifactError(
                f"{error}. It is kept ({kept[id]}), and only its record names its inputs, so nothing can be removed"
            ) from error
        for input in record.inputs.values():
            if input is not None and input not in kept:
                kept[input] = f"upstream of {kept[id]}" if not kept[id].startswith("upstream") else kept[id]
                waiting.append(input)
    return kept


def _spare_records(store: Store, id: str) -> tuple[Path, Path]:
    """Return the paths of an artifact's record if a killed rebuild has set it aside, or if it was dropped as damaged."""
    return store.root / "aside" / id / RECORD, store.root / "partial" / id / DROPPED


def _spare_record(store: Store, id: str) -> Record:
    """Return this record; raises `CorruptArtifactError` if it does not hold the dependencies of the artifact."""
    aside, path = _spare_records(store, id)
    if aside.exists():
        return Record.load(aside)
    with suppress(CorruptArtifactError):
        record = Record.load(path)
        is_own = artifact_id(record.stage, record.version, record.config, record.inputs) == id
        tables = [name for name in record.files if record.pool and name.startswith("parts/")]
        if is_own and all((path.parent / name).exists() for name in tables):
            return record
    raise CorruptArtifactError(
        f"{path.parent}: was dropped as damaged, so its dependencies are unknown; run its recipe again first"
    )


def _refuse_lost(store: Store, id: str, why: str) -> None:
    if (store.root / "artifacts" / id).is_symlink():
        store.record(id)  # raises LinkError
    folder = next((root / "artifacts" / id for root in store.roots if (root / "artifacts" / id).is_dir()), None)
    if folder is not None:
        raise StoreError(
            f"{folder}: holds no record.json. It is kept ({why}), and only that file names its inputs and parts of the pool, so "
            f"nothing can be removed; run `sevila cache verify {id} --drop`, then its recipe"
        )


def needed_parts(store: Store, record: Record) -> set[PartId]:
    """Return the parts of the pool of a kept artifact; raises `CorruptArtifactError` if its table of them is damaged."""
    tables = [name for name in record.files if record.pool and name.startswith("parts/")]
    try:
        for name in tables:
            store.checked_file(record, name)
        return references(store, record)
    except (SevilaError, OSError) as error:
        raise CorruptArtifactError(
            f"{error}. {record.id} is kept, and only this table names its parts of the pool, so nothing can be removed"
        ) from error
