"""Where an artifact comes from: all that it was made from, and why two artifacts are not the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cache.record import Record
from cache.store import Store

# Says how an outside source differs, given the record on A's side, the input's name, and the ids in A and B.
DescribeSource = Callable[[Record, str, str | None, str | None], str]


class _Pair(NamedTuple):
    """What stands in the same place of two ancestries: an input's name, what it is in each, and the record that names it in A."""

    name: str
    id_a: str | None
    id_b: str | None
    parent: Record | None


def differences(
    store: Store, a: str, b: str, planned: Mapping[str, Record] | None = None, describe: DescribeSource | None = None
) -> list[str]:
    """Return one line per difference, upstream first, `stage.key: A's value -> B's`; empty for one and the same artifact.

    A chain of artifacts that the store no longer holds, or that other stages made, is followed no further.

    Args:
        planned: what an artifact that is not made yet would be made of, by its id.
        describe: says more of an outside source than its ids; "" where it cannot.
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
    ]  # or the lines that come after those of all inputs
    while waiting:
        pair = waiting.pop()
        if isinstance(pair, list):
            lines += pair
            continue
        name, id_a, id_b, parent = pair
        if id_a == id_b or (id_a, id_b) in seen:
            continue
        seen.add((id_a, id_b))
        of_a, of_b = record(id_a), record(id_b)
        if of_a is None or of_b is None or of_a.stage != of_b.stage:
            difference = describe(parent, name.split(".")[-1], id_a, id_b) if describe and parent else ""
            lines.append(f"{name}: {difference or ' -> '.join((id_a or 'none', id_b or 'none'))}")
            continue
        waiting.append([f"{of_a.stage}.{line}" for line in own_differences(of_a, of_b)])
        inputs = [*dict.fromkeys([*of_a.inputs, *of_b.inputs])]
        waiting += [
            _Pair(f"{of_a.stage}.{key}", of_a.inputs.get(key), of_b.inputs.get(key), of_a) for key in inputs[::-1]
        ]
    return lines


def own_differences(a: Record, b: Record) -> list[str]:
    """Return one line per difference of version and config, `key: A's value -> B's`; inputs are not compared."""
    of_a, of_b = ({"version": record.version} | record.config for record in (a, b))
    keys = [key for key in dict.fromkeys([*of_a, *of_b]) if of_a.get(key) != of_b.get(key)]
    return [f"{key}: {of_a.get(key)} -> {of_b.get(key)}" for key in keys]


@dataclass(frozen=True)
class Origin:
    """One artifact or outside source in an ancestry; `record` is None for a source and for what the store does not hold."""

    id: str
    record: Record | None

    @property
    def inputs(self) -> dict[str, str]:
        """What it was made from, by the input's name."""
        return {name: id for name, id in self.record.inputs.items() if id is not None} if self.record else {}


def ancestry(store: Store, id: str) -> dict[str, Origin]:
    """Return an artifact and all it was made from, to its outside sources, by id; each after something made from it."""
    origins: dict[str, Origin] = {}
    waiting = [id]
    while waiting:
        next = waiting.pop()
        if next not in origins:
            origins[next] = Origin(next, store.record(next) if store.exists(next) else None)
            waiting += reversed(origins[next].inputs.values())
    return origins
