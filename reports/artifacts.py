"""Artifacts as text: the listing, the description of one artifact with its first rows, and its ancestry."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cache.errors import CorruptArtifactError
from cache.folders import size_of, stage_of
from cache.id_prefixes import newest
from cache.lineage import Origin
from cache.names import known_uses
from cache.printable import counted, printable_lines, shortened
from cache.record import Record
from cache.store import Store
from cache.tables import read_head
from cache.untrusted import path_inside
from pipeline.engine.stage import Config
from pipeline.text_table import human_size
from stages.all import STAGES

RUNS_SHOWN = 3
ARTIFACT_ID = re.compile(r"\w+-v\d+-[0-9a-f]{20}")


@dataclass(frozen=True)
class ArtifactLine:
    """One line of the listing.

    Attributes:
        unusual: The config keys that differ from their defaults.
        settings: The settings of the chain steps that produced it, from the runs that pin it (cache/names.py).
        runs: The names of the named runs that pin it.
        below: The lower store that holds it; empty for the main store.
        stale: The input whose content has changed since the artifact was built; empty if there is none.
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


def artifact_lines(store: Store, stage: str = "") -> list[ArtifactLine]:
    """Return the artifacts (of one stage) in the order they finished; unreadable ones come first."""
    lines = []
    settings, runs = known_uses(store)
    stale_reasons: dict[str, str] = {}  # cache of why_stale
    with store.one_look():
        for id in store:
            artifact_stage, layer = stage_of(id), _layer(store, id)
            if stage not in ("", artifact_stage):
                continue
            try:
                record = store.record(id)
            except CorruptArtifactError as error:
                lines.append(ArtifactLine(id, artifact_stage, "", 0, {}, 0, {}, [], [], layer, str(error)))
                continue
            size_bytes = size_of("", record)
            failed = sum(record.dropped.values())
            uses = (sorted(settings.get(id, ())), sorted(runs.get(id, ())))
            facts = (id, record.stage, record.finished, size_bytes, record.rows, failed, unusual(record), *uses, layer)
            lines.append(ArtifactLine(*facts, stale=store.why_stale(id, stale_reasons)))
    return sorted(lines, key=lambda line: line.finished)


def listing(store: Store, lines: Sequence[ArtifactLine]) -> str:
    """Return one line per artifact: id, time it finished, size, rows and failures, setting, unusual config, runs, layer."""
    lines_of_text = []
    for line in lines:
        if line.problem:
            lines_of_text.append(f"{line.id:42} cannot be read: {line.problem}")
            continue
        counts = [counted(count, table) for table, count in line.rows.items()]
        counts += [f"{line.failed} failed"] if line.failed else []
        config = " ".join(f"{key}={shortened(str(value), 40)}" for key, value in line.unusual.items())
        parts = [
            ", ".join(counts),
            f"({'; '.join(line.settings)})" if line.settings else "",
            f"[{config}]" if config else "",
        ]
        n_more = f" and {len(line.runs) - RUNS_SHOWN} more" if len(line.runs) > RUNS_SHOWN else ""
        parts += [
            f"run {', '.join(line.runs[:RUNS_SHOWN])}{n_more}" if line.runs else "",
            f"in {line.below}" if line.below else "",
            f"stale: {line.stale}" if line.stale else "",
        ]
        head = f"{line.id:42} {line.finished[:19]} {human_size(line.size_bytes):>9}"
        lines_of_text.append("  ".join(filter(None, (head, *parts))))
    return printable_lines(lines_of_text) or f"no artifacts in {store.root}"


def description(store: Store, prefix: str, n_rows: int) -> str:
    """Return the record and the first rows of the newest artifact that `Store.matching` returns."""
    records = newest(store, prefix)[::-1]
    record = records[-1]
    folder = store.path(record.id)
    parts = (
        [f"the newest of {len(records)}; also: {', '.join(older.id for older in records[:-1])}"] if records[1:] else []
    )
    stale = store.why_stale(record.id)
    parts += [f"stale: {stale}; the next run of its recipe rebuilds it"] if stale else []
    parts += _facts(record, folder)
    for table, schema in record.schemas.items():
        names = _files_of(record, table)
        columns = ", ".join(f"{name} {kind}" for name, kind in schema["columns"].items())
        parts.append(f"{table} (version {schema['version']}, {record.rows.get(table, 0)} rows): {columns}")
        parts += [f"  {_line(row)}" for row in read_head([path_inside(folder, name) for name in names], n_rows)]
    return printable_lines(parts)


def content(store: Store, prefix: str, n_rows: int) -> dict[str, Any]:
    """Return the content of `description` as JSON values: the record, why it is stale, and the first rows by table."""
    record = newest(store, prefix)[0]
    folder = store.path(record.id)
    rows = {
        table: read_head([path_inside(folder, name) for name in _files_of(record, table)], n_rows)
        for table in record.schemas
    }
    stale = store.why_stale(record.id)
    return {**vars(record), "folder": str(folder), "stale": stale, "first_rows": rows}


def _files_of(record: Record, table: str) -> list[str]:
    return sorted(name for name in record.files if name == f"{table}.parquet" or name.startswith(f"{table}/"))


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
    return "" if layer is store.root else str(layer)


def ancestry_text(origins: Mapping[str, Origin]) -> str:
    """Return an ancestry as an indented tree; inputs of an artifact are listed where it first occurs."""
    lines: list[str] = []
    seen: set[str] = set()
    stack = [("", next(iter(origins.values())), 0)]
    while stack:
        name, origin, depth = stack.pop()
        is_repeated = origin.id in seen and bool(origin.inputs)
        seen.add(origin.id)
        facts = "see above" if is_repeated else _origin_facts(origin)
        lines.append(f"{'  ' * depth}{name}{origin.id}{f'  ({facts})' if facts else ''}")
        inputs = [] if is_repeated else [*origin.inputs.items()]
        stack += [(f"{input}: ", origins[id], depth + 1) for input, id in reversed(inputs)]
    return printable_lines(lines)


def _origin_facts(origin: Origin) -> str:
    if origin.record is None:
        return "not in the store" if ARTIFACT_ID.fullmatch(origin.id) else ""
    return ", ".join(f"{key}={value!r}" for key, value in unusual(origin.record).items())


def unusual(record: Record) -> dict[str, Any]:
    """Return the config keys of an artifact that differ from its stage's defaults; all of them if the stage no longer exists."""
    stage = STAGES.get(record.stage)
    defaults = _defaults(stage.config) if stage is not None else {}
    return {key: value for key, value in record.config.items() if key not in defaults or value != defaults[key]}


@cache
def _defaults(config: type[Config]) -> dict[str, Any]:
    fields = {key: field for key, field in config.model_fields.items() if not field.is_required()}
    defaults = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    plain: dict[str, Any] = json.loads(json.dumps(defaults))  # tuples are lists in a record
    return plain
