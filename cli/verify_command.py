"""`sevila cache verify`: every byte of the store against its checksums, and what is damaged made again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext

from cache.errors import StoreError
from cache.pool_listing import PartId, every_part
from cache.printable import printable
from cache.show import human_size
from cache.store import Store
from cache.verify import OF_A_RECIPE, Verification, size_bytes
from cli.options import Execution, Places
from pipeline.engine.progress import bytes_bar

ROUNDS = 4  # a repaired table may name parts of the pool that could not be looked at before


def verify(
    store: Store, names: Sequence[str], everything: bool, mend: bool, places: Places, execution: Execution
) -> int:
    """Check artifacts, repair them if asked to, and return 1 if something is wrong after that."""
    if not store.root.is_dir():  # a mount that is gone, for one
        raise StoreError(f"there is no store at {store.root}, so nothing of it was checked")
    read_only = not mend and not os.access(store.root, os.W_OK)  # a colleague's
    with nullcontext() if read_only else store.in_use():
        ids, parts = _wanted(store, names, everything)
        found = _verified(store, ids, parts, everything)
        failed: list[str] = []
        if mend and found.problems:
            for problem in found.problems:
                print(printable(str(problem)))
            found, failed = _repaired(places, execution, store, found, ids, parts, everything)
    for line in found.told:
        print(printable(line))
    for line in failed:
        print(printable(f"not repaired: {line}"))
    for problem in found.problems:
        print(printable(str(problem)))
    read = f"{found.n_files} files, {human_size(found.n_bytes)}"
    if not found.problems:
        n = len(found.missing)
        but = f" of what is here; not here: {n} artifact{'s' if n > 1 else ''} that no named run needs" if n else ""
        print(f"checked {read}: all as written{but}")
        return 0
    n_problems = len(found.problems)
    print(f"checked {read}: {n_problems} problem{'s' if n_problems > 1 else ''}" + _way_out(found, everything, mend))
    return 1


def _wanted(store: Store, names: Sequence[str], everything: bool) -> tuple[list[str], list[PartId]]:
    """Return the artifacts and parts of the pool to check: `space/key/part`, an id or the beginning of one, or all."""
    if everything == bool(names):
        raise StoreError("say which artifacts to verify, or --all; `sevila cache ls` lists them")
    if everything:
        return [*store, *store.lost()], [part for root in store.roots for part in every_part(root)]
    parts: list[PartId] = []
    ids: list[str] = []
    for name in names:
        if "/" in name:
            if name.count("/") != 2:
                raise StoreError(f"{name!r} is neither an artifact id nor a part of the pool, space/key/part")
            space, key, part = name.split("/")
            parts.append((space, key, part))
        else:
            ids += store.matching(name, lost=True)
    return list(dict.fromkeys(ids)), parts


def _verified(store: Store, ids: list[str], parts: Iterable[PartId], everything: bool) -> Verification:
    with bytes_bar("verify", size_bytes(store, ids, parts)) as read:
        found = Verification(store, read)
        found.artifacts(ids)
        found.parts(parts)
        if everything:
            found.rest()
    return found


def _repaired(
    places: Places,
    execution: Execution,
    store: Store,
    found: Verification,
    ids: list[str],
    parts: Iterable[PartId],
    everything: bool,
) -> tuple[Verification, list[str]]:
    from cli.context import run_context
    from pipeline.engine.rebuild import repair
    from pipeline.engine.sources import Sources
    from stages.chain import STAGES

    run = run_context(execution, store, Sources(store.digests, places.by_kind(), download=False))
    failed: list[str] = []
    for _ in range(ROUNDS):
        before = found.problems
        failed = repair(run, found, STAGES)
        found = _verified(store, ids, parts, everything)
        if not found.problems or found.problems == before:
            break
    return found, failed


def _way_out(found: Verification, everything: bool, mend: bool) -> str:
    if mend:
        return ""
    ways = []
    rebuilt = sorted({problem.id for problem in found.problems if problem.piece not in OF_A_RECIPE})
    if rebuilt:
        names = "--all" if everything else " ".join(rebuilt)
        ways.append(f"`sevila cache verify {names} --repair` rebuilds what is damaged")
    if any(problem.piece == "artifact" for problem in found.problems):
        ways.append("an artifact that is gone is made by its recipe, run again")
    if any(problem.piece == "name" for problem in found.problems):
        ways.append(
            "a name is given anew by its run, repeated as `--name NAME --replace`, or up by `sevila runs rm NAME`"
        )
    return "".join(f"; {way}" for way in ways)
