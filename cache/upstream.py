"""Walking chains of artifacts in topological order: in a loop, as a long chain exceeds Python's recursion limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import TypeVar

Known = TypeVar("Known")


def inputs_first(
    id: str, inputs_of: Callable[[str], Sequence[str]], known: MutableMapping[str, Known], unknown: Known
) -> Iterator[str]:
    """Yield an artifact and everything upstream, inputs first, each once, except keys of `known`.

    Each visited id is added to `known` with the value `unknown`, so that a cycle of records ends the walk.
    """
    waiting = [(id, False)]
    while waiting:
        next_id, is_after_inputs = waiting.pop()
        if is_after_inputs:
            yield next_id
        elif next_id not in known:
            known[next_id] = unknown
            waiting.append((next_id, True))
            waiting += [(input, False) for input in reversed(inputs_of(next_id))]
