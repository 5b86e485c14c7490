"""`sevila cache verify`: verify every byte of the store against its checksums, and drop damaged pieces."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from cache.drop import Drops, pointing
from cache.errors import StoreError
from cache.id_prefixes import matching
from cache.pool_listing import PartId, every_part
from cache.pool_reader import is_there, size_bytes
from cache.printable import counted, printable, printable_lines
from cache.store import Store
from cache.verify import Verification
from cli.options import UsageError
from cli.terminal import print_json
from pipeline.engine.progress import count_bar
from pipeline.text_table import human_size


def verify(store: Store, names: Sequence[str], everything: bool, drop: bool, as_json: bool) -> int:
    """Verify artifacts, drop damaged pieces if `drop`, and return 1 if problems remain."""
    _check_usage(names, everything)
    if not store.root.is_dir():  # for example a lost mount
        raise StoreError(f"{store.root}: there is no store to verify; `--store FOLDER` selects another")
    read_only = not drop and not os.access(store.root, os.W_OK)  # a colleague's
    with nullcontext() if read_only else store.in_use():
        verification = _verified(store, *_selected(store, names, everything), everything)
        drops = Drops(store, remove=drop)
        if not read_only:  # locks need write access
            drops.of(verification)
    status = 1 if verification.problems and not (drop and not drops.remaining) else 0
    if as_json:
        print_json(_content(verification, drops, drop))
    else:
        _print(verification, drops, drop)
    return status


def _content(verification: Verification, drops: Drops, dropped: bool) -> dict[str, Any]:
    return {
        "files": verification.n_files,
        "bytes": verification.n_bytes,
        "problems": [str(problem) for problem in verification.problems],
        "remarks": list(verification.remarks),
        "missing": list(verification.missing),
        "dropped" if dropped else "would_drop": drops.removals,
        "not_dropped": drops.remaining,
    }


def _print(verification: Verification, drops: Drops, drop: bool) -> None:
    for line in verification.remarks:
        print(printable(line))
    for problem in verification.problems:
        print(printable(str(problem)))
    _print_drops(drops, drop)
    read = f"{counted(verification.n_files, 'files')}, {human_size(verification.n_bytes)}"
    if not verification.problems:
        n = len(verification.missing)
        missing = f"; not in the store: {counted(n, 'artifacts')} that no named run needs" if n else ""
        print(f"checked {read}: all as written{missing}")
        return
    print(f"checked {read}: {counted(len(verification.problems), 'problems')}")


def _print_drops(drops: Drops, dropped: bool) -> None:
    if drops.removals:
        print("dropped:" if dropped else "`--drop` would drop (nothing is changed without it):")
        print(printable_lines(f"  {line}" for line in drops.removals))
    if drops.remaining:
        print("not dropped:" if dropped else "and would not drop:")
        print(printable_lines(f"  {line}" for line in drops.remaining))


def _check_usage(names: Sequence[str], everything: bool) -> None:
    hint = "See `sevila cache verify --help`."
    if everything == bool(names):
        raise UsageError(f"Give the ids of artifacts, or --all, not both; `sevila cache ls` lists them. {hint}")
    for name in names:
        if name.count("/") not in (0, 2):
            raise UsageError(f"{name!r} is neither an artifact id nor a part of the pool, space/key/part. {hint}")


def _selected(store: Store, names: Sequence[str], everything: bool) -> tuple[list[str], list[PartId]]:
    """Return the artifacts and parts of the pool to verify, from ids or their beginnings and `space/key/part`; or all."""
    if everything:
        return [*store, *store.lost()], [part for root in store.roots for part in every_part(root)]
    parts: list[PartId] = []
    ids: list[str] = []
    for name in names:
        if "/" in name:
            space, key, part = name.split("/")
            parts.append((space, key, part))
            if not (is_there(store, parts[-1]) or pointing(store, "artifacts", parts[-1:])):
                raise StoreError(f"{name}: is not in the pool, and no artifact needs it")
        else:
            ids += matching(store, name, lost=True)
    return list(dict.fromkeys(ids)), parts


def _verified(store: Store, ids: list[str], parts: Iterable[PartId], everything: bool) -> Verification:
    with count_bar("verify", size_bytes(store, ids, parts), "B") as read:
        verification = Verification(store, read)
        verification.artifacts(ids)
        verification.parts(parts)
        if everything:
            verification.other_files()
    return verification
