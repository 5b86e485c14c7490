"""The disk space of a store, by stage and by pool space, and the items that `cache gc` removes."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from cache.errors import CorruptArtifactError, SchemaError, SevilaError
from cache.folders import folders_in, readable, size_of, stage_of
from cache.gc import WHOLE_FOLDERS, Item, Survey, survey
from cache.pool_listing import every_key, references
from cache.printable import counted, printable_lines
from cache.store import Store
from pipeline.text_table import human_size


@dataclass
class Share:
    """Number and size of items of one kind; for parts of the pool, also of those that artifacts of this store refer to."""

    count: int = 0
    size_bytes: int = 0
    n_referenced: int = 0
    referenced_bytes: int = 0


@dataclass
class Usage:
    """Sizes in bytes, of the main store only; `other_bytes` are demo worlds, notes, locks and left-overs.

    `freed_bytes` is what `cache gc` would free; None if it is not known, with the reason in `problem`.
    """

    stages: dict[str, Share] = field(default_factory=dict)
    pool: dict[str, Share] = field(default_factory=dict)
    unfinished: Share = field(default_factory=Share)
    set_aside: Share = field(default_factory=Share)
    other_bytes: int = 0
    total_bytes: int = 0
    freed_bytes: int | None = None
    problem: str = ""


def usage(store: Store) -> Usage:
    """Return the disk usage of a store."""
    result = Usage(total_bytes=size_of(store.root))
    used: set[tuple[str, str, str]] = set()
    for id, folder in folders_in(store.root / "artifacts").items():
        _count(result.stages.setdefault(stage_of(id), Share()), size_of(folder))
        record = readable(store.root, id)
        with suppress(CorruptArtifactError, SchemaError):  # `survey` reports damaged artifacts
            used |= references(store, record) if record is not None else set()
    for held in every_key(store.root):
        share = result.pool.setdefault(held.space, Share())
        for part, names in held.parts().items():
            size_bytes = sum(os.lstat(f"{held.folder}/{name}").st_size for name in names)
            _count(share, size_bytes)
            if (held.space, held.key, part) in used:
                share.n_referenced += 1
                share.referenced_bytes += size_bytes
    for share, name in ((result.unfinished, "partial"), (result.set_aside, "aside")):
        for folder in folders_in(store.root / name).values():
            _count(share, size_of(folder))
    shares = [*result.stages.values(), *result.pool.values(), result.unfinished, result.set_aside]
    result.other_bytes = result.total_bytes - sum(share.size_bytes for share in shares)
    try:
        result.freed_bytes = survey(store).size_bytes
    except SevilaError as error:
        result.problem = str(error)
    return result


def usage_text(usage: Usage) -> str:
    """Return the sizes for a terminal."""
    shares = sorted(usage.stages.items())
    lines = [_line(share.size_bytes, stage, counted(share.count, "artifacts")) for stage, share in shares]
    for space, share in sorted(usage.pool.items()):
        text = f"{share.count} parts, {share.n_referenced} used by artifacts ({human_size(share.referenced_bytes)})"
        lines.append(_line(share.size_bytes, f"pool {space}", text))
    shares = [("unfinished", usage.unfinished), ("set aside", usage.set_aside)]
    lines += [_line(share.size_bytes, name, counted(share.count, "artifacts")) for name, share in shares if share.count]
    lines += [_line(usage.other_bytes, "other", "notes, locks, demo worlds"), _line(usage.total_bytes, "total", "")]
    freed = (
        usage.problem if usage.freed_bytes is None else f"`sevila cache gc` would free {human_size(usage.freed_bytes)}"
    )
    return printable_lines([*lines, freed])


def _line(size_bytes: int, name: str, text: str) -> str:
    return f"{human_size(size_bytes):>9}  {name:21} {text}".rstrip()


def _count(share: Share, size_bytes: int) -> None:
    share.count += 1
    share.size_bytes += size_bytes


def survey_text(surveyed: Survey, deleted: bool = False) -> str:
    """Return the items to remove by stage, and the kept ones by reason, for a terminal."""
    hint = "" if deleted or not surveyed.goes else " (--delete removes it)"
    lines = [f"{'removed' if deleted else 'to remove'}: {human_size(surveyed.size_bytes)}{hint}"]
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in surveyed.goes:
        groups.setdefault((item.kind, item.stage), []).append(item)
    for (kind, stage), items in groups.items():
        size = human_size(sum(item.size_bytes for item in items))
        lines.append(
            f"  {size:>9}  {len(items)} {kind}{'s' if len(items) > 1 and kind != 'unfinished' else ''} {stage}".rstrip()
        )
        if kind in WHOLE_FOLDERS:
            lines += [f"             {item.name}" for item in items]
    lines.append(f"{'kept' if deleted else 'to keep'}: {counted(len(surveyed.kept), 'artifacts')}")
    lines += [f"  {count:9}  {why}" for why, count in Counter(surveyed.kept.values()).most_common()]
    return printable_lines(lines)
