"""The order in which chains of artifacts are walked: in a loop, as a chain of years is longer than Python calls deep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import TypeVar

Known = TypeVar("Known")


def inputs_first(
    id: str, inputs_of: Callable[[str], Sequence[str]], known: MutableMapping[str, Known], unknown: Known
) -> Iterator[str]:
    """Yield an artifact after all that it was made from, each once and none that is a key of `known`.

    What is yielded has become such a key, with the value `unknown`: so a record that claims to come from itself ends the walk.
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
