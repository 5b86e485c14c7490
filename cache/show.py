"""An artifact as text for people: what it is, what it was made from, and the first rows of its tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import CorruptArtifactError
from cache.matching import newest
from cache.names import known_uses
from cache.printable import printable_lines, shortened
from cache.record import Record
from cache.store import Store
from cache.untrusted import inside

RUNS_SHOWN = 3


@dataclass(frozen=True)
class ArtifactLine:
    """One line of the listing.

    Attributes:
        unusual: the config keys worth telling.
        settings: which of a chain's steps of this stage it is, as the runs that know it say (see cache/names.py).
        runs: the names of those that have one.
        below: the other store that holds it; empty for one's own.
        stale: which input has other content now than it was made from; empty if none has.
    """

    id: str
    stage: str
    finished: str
    size_bytes: int
    rows: dict[str, int]
    failed: int
    unusual: dict[str, Any]
    settings: list[str]
    runs: list[str]
    below: str
    problem: str = ""
    stale: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return dataclasses.asdict(self)


def artifact_lines(
    store: Store, stage: str = "", unusual: Callable[[Record], Mapping[str, Any]] | None = None
) -> list[ArtifactLine]:
    """Return the artifacts (of one stage), the last finished at the end; those that cannot be read come first."""
    lines = []
    settings, runs = known_uses(store)
    known: dict[str, str] = {}
    with store.one_look():
        for id in store:
            of_stage, layer = id.rsplit("-v", 1)[0], _layer(store, id)
            if stage not in ("", of_stage):
                continue
            try:
                record = store.record(id)
            except CorruptArtifactError as error:
                lines.append(ArtifactLine(id, of_stage, "", 0, {}, 0, {}, [], [], layer, str(error)))
                continue
            size_bytes = sum(file["size_bytes"] for file in record.files.values())
            config = dict(unusual(record)) if unusual is not None else {}
            failed = sum(record.dropped.values())
            uses = (sorted(settings.get(id, ())), sorted(runs.get(id, ())))
            facts = (id, record.stage, record.finished, size_bytes, record.rows, failed, config, *uses, layer)
            lines.append(ArtifactLine(*facts, stale=store.why_stale(id, known)))
    return sorted(lines, key=lambda line: line.finished)


def listing(store: Store, lines: Sequence[ArtifactLine]) -> str:
    """Return one line per artifact: id, when it was finished, size, rows and failures, setting, unusual config, runs, layer."""
    lines_of_text = []
    for line in lines:
        if line.problem:
            lines_of_text.append(f"{line.id:42} cannot be read: {line.problem}")
            continue
        counts = [f"{count} {table}" for table, count in line.rows.items()]
        counts += [f"{line.failed} failed"] if line.failed else []
        config = " ".join(f"{key}={shortened(str(value), 40)}" for key, value in line.unusual.items())
        parts = [
            ", ".join(counts),
            f"({'; '.join(line.settings)})" if line.settings else "",
            f"[{config}]" if config else "",
        ]
        more = f" and {len(line.runs) - RUNS_SHOWN} more" if len(line.runs) > RUNS_SHOWN else ""
        parts += [
            f"run {', '.join(line.runs[:RUNS_SHOWN])}{more}" if line.runs else "",
            f"in {line.below}" if line.below else "",
            f"stale: {line.stale}" if line.stale else "",
        ]
        head = f"{line.id:42} {line.finished[:19]} {human_size(line.size_bytes):>9}"
        lines_of_text.append("  ".join(filter(None, (head, *parts))))
    return printable_lines(lines_of_text) or f"no artifacts in {store.root}"


def description(store: Store, prefix: str, n_rows: int) -> str:
    """Return the record and the first rows of the newest artifact that `Store.matching` finds."""
    from cache.tables import read_head  # here: a listing does not wait for pyarrow

    records = newest(store, prefix)[::-1]
    record = records[-1]
    folder = store.path(record.id)
    parts = (
        [f"the newest of {len(records)}; also: {', '.join(older.id for older in records[:-1])}"] if records[1:] else []
    )
    stale = store.why_stale(record.id)
    parts += [f"stale, and made anew by the next run of its recipe: {stale}"] if stale else []
    parts += _facts(record, folder)
    for table, schema in record.schemas.items():
        names = sorted(name for name in record.files if name == f"{table}.parquet" or name.startswith(f"{table}/"))
        columns = ", ".join(f"{name} {kind}" for name, kind in schema["columns"].items())
        parts.append(f"{table} (version {schema['version']}, {record.rows.get(table, 0)} rows): {columns}")
        parts += [f"  {_line(row)}" for row in read_head([inside(folder, name) for name in names], n_rows)]
    return printable_lines(parts)


def human_size(size_bytes: float) -> str:
    """Return `3.2 GB` and the like, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _facts(record: Record, folder: Path) -> list[str]:
    facts: dict[str, Any] = {
        "id": record.id,
        "folder": folder,
        "config": json.dumps(record.config, ensure_ascii=False),
        "finished": f"{record.finished} on {record.host} ({record.device}), {record.git_revision or 'no git revision'}",
        "seconds": ", ".join(f"{name} {seconds}" for name, seconds in record.phase_seconds.items()) or "-",
        "peak memory": human_size(record.peak_memory_bytes),
        "libraries": ", ".join(f"{name} {version}" for name, version in record.libraries.items()),
        "failed": ", ".join(f"{count} {reason}" for reason, count in record.dropped.items()) or "none",
    }
    lines = [f"{name:12} {value}" for name, value in facts.items()]
    lines += [f"{'input':12} {name} = {id or '-'}" for name, id in record.inputs.items()]
    return lines + [
        f"{'file':12} {name}  {human_size(file['size_bytes'])}  {file['sha256']}" for name, file in record.files.items()
    ]


def _line(row: dict[str, Any]) -> str:
    return shortened("  ".join(f"{name}={value!r}" for name, value in row.items()), 300)


def _layer(store: Store, id: str) -> str:
    layer = store.layer(id) if len(store.roots) > 1 else store.root
    return "" if layer == store.root else str(layer)
