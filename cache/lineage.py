"""The ancestry of artifacts: everything an artifact was made from, and why two artifacts differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cache.record import Record
from cache.store import Store

# Describes how an outside source differs, from the record on A's side, the input's name, and the ids in A and B.
DescribeSource = Callable[[Record, str, str | None, str | None], str]


class _Pair(NamedTuple):
    """Corresponding inputs of two ancestries: the input's name, its id in each, and the record in A that has this input."""

    name: str
    id_a: str | None
    id_b: str | None
    parent: Record | None


def differences(
    store: Store, a: str, b: str, planned: Mapping[str, Record] | None = None, describe: DescribeSource | None = None
) -> list[str]:
    """Return one line per difference, upstream first, `stage.key: A's value -> B's`; empty if A and B are the same artifact.

    The comparison stops at artifacts that the store no longer holds, or that different stages made.

    Args:
        planned: records of artifacts that are not made yet, by id.
        describe: returns a description of an outside source for use instead of its ids, or "".
    """
    known = dict(planned or {})
    lines: list[str] = []
    seen: set[tuple[str | None, str | None]] = set()

    def record(id: str | None) -> Record | None:
        if id is not None and id not in known and store.exists(id):
            known[id] = store.record(id)
        return known.get(id or "")

    waiting: list[_Pair | list[str]] = [
        _Pair("artifact", a, b, None)
    ]  # a list: the lines of a pair, due after those of all its inputs
    while waiting:
        pair = waiting.pop()
        if isinstance(pair, list):
            lines += pair
            continue
        name, id_a, id_b, parent = pair
        if id_a == id_b or (id_a, id_b) in seen:
            continue
        seen.add((id_a, id_b))
        record_a, record_b = record(id_a), record(id_b)
        if record_a is None or record_b is None or record_a.stage != record_b.stage:
            difference = describe(parent, name.split(".")[-1], id_a, id_b) if describe and parent else ""
            lines.append(f"{name}: {difference or ' -> '.join((id_a or 'none', id_b or 'none'))}")
            continue
        stage, inputs_a, inputs_b = record_a.stage, record_a.inputs, record_b.inputs
        waiting.append([f"{stage}.{line}" for line in own_differences(record_a, record_b)])
        inputs = [*dict.fromkeys([*inputs_a, *inputs_b])]
        waiting += [_Pair(f"{stage}.{key}", inputs_a.get(key), inputs_b.get(key), record_a) for key in inputs[::-1]]
    return lines


def own_differences(a: Record, b: Record) -> list[str]:
    """Return one line per difference of version and config, `key: A's value -> B's`; inputs are not compared."""
    values_a, values_b = ({"version": record.version} | record.config for record in (a, b))
    keys = dict.fromkeys([*values_a, *values_b])
    return [
        f"{key}: {values_a.get(key)} -> {values_b.get(key)}" for key in keys if values_a.get(key) != values_b.get(key)
    ]


@dataclass(frozen=True)
class Origin:
    """One artifact or outside source in an ancestry; `record` is None for sources and artifacts that the store lacks."""

    id: str
    record: Record | None

    @property
    def inputs(self) -> dict[str, str]:
        """The ids of its inputs, by name."""
        return {name: id for name, id in self.record.inputs.items() if id is not None} if self.record else {}


def ancestry(store: Store, id: str) -> dict[str, Origin]:
    """Return an artifact and everything upstream, down to outside sources, by id; each after a dependent of it."""
    origins: dict[str, Origin] = {}
    waiting = [id]
    while waiting:
        next = waiting.pop()
        if next not in origins:
            origins[next] = Origin(next, store.record(next) if store.exists(next) else None)
            waiting += reversed(origins[next].inputs.values())
    return origins
