"""Artifacts that are read together are held against each other: a table that lost rows must not look like a smaller data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from cache.errors import CorruptArtifactError, rebuild_hint
from pipeline.engine.typed_rows import Zipped, hashes_of

if TYPE_CHECKING:
    from pipeline.engine.stage import Artifact


WantedRow = TypeVar("WantedRow")


def refuse_cut(a: Artifact, keys_a: Collection[Hashable], b: Artifact, keys_b: Collection[Hashable], what: str) -> None:
    """Raise `CorruptArtifactError`, which names the artifact that lacks some, unless both have the same keys, each once.

    Args:
        a: what has `keys_a`; the same as `b` where two of its tables are compared.
        b: what has `keys_b`.
        keys_a: what one of them has rows of.
        keys_b: what the other one has rows of.
        what: name of the keys, for people.
    """
    if _are_equal(keys_a, keys_b):
        return
    of_a, of_b = set(keys_a), set(keys_b)
    for lacking, there, other, wanted in ((a, of_a, b, of_b), (b, of_b, a, of_a)):
        if missing := wanted - there:
            beside = "another of its tables" if a.id == b.id else str(other.id)
            raise CorruptArtifactError(
                f"{lacking.id}: lacks {len(missing)} of the {len(wanted)} {what} of {beside} (first "
                f"{min(missing, key=str)!r}); {rebuild_hint(lacking.path)}"
            )
    for having, keys in ((a, keys_a), (b, keys_b)):
        for key, count in Counter(keys).items():
            if count > 1:
                raise CorruptArtifactError(
                    f"{having.id}: has {key!r} {count} times among its {what}; {rebuild_hint(having.path)}"
                )


def refuse_unknown(artifact: Artifact, keys: Sequence[Hashable], known: Collection[Hashable], what: str) -> None:
    """Raise `CorruptArtifactError` for the first of a table's keys, one a row, that is not among those known."""
    unknown = ~np.isin(hashes_of(keys), hashes_of(known))
    if unknown.any():
        row = int(unknown.argmax())
        raise CorruptArtifactError(
            f"{artifact.id}: row {row} of its {what} is about {keys[row]!r}, which it does not list; "
            f"{rebuild_hint(artifact.path)}"
        )


def row_where(
    artifact: Artifact, table: str, rows: Iterable[WantedRow], is_wanted: Callable[[WantedRow], bool]
) -> WantedRow:
    """Return the first row of a table that is wanted; raises `CorruptArtifactError` if there is none."""
    row = next(filter(is_wanted, rows), None)
    if row is None:
        raise CorruptArtifactError(
            f"{artifact.id}: its table {table} lacks the row to report; {rebuild_hint(artifact.path)}"
        )
    return row


def refuse_other_frames(
    a: Artifact, frames_a: Collection[tuple[str, int]], b: Artifact, frames_b: Collection[tuple[str, int]]
) -> None:
    """Raise `CorruptArtifactError` unless each question, by its id, has the same frames, as `digest_of_frames`, in both.

    Args:
        a: what has `frames_a`.
        b: the artifact of the frames, which `frames_b` are of.
        frames_a: of each question that has rows for its frames.
        frames_b: of the clip of each question that should have them.
    """
    if _are_equal(frames_a, frames_b):
        return
    n_frames_a, n_frames_b = ([(id, digest >> 32) for id, digest in frames] for frames in (frames_a, frames_b))
    refuse_cut(a, n_frames_a, b, n_frames_b, "questions with their frames")
    for id, _ in sorted({*frames_a} - {*frames_b})[:1]:  # none if only hashes collided
        raise CorruptArtifactError(
            f"{a.id}: has other frames of question {id!r}, or in another order, than {b.id} has of its clip; "
            f"{rebuild_hint(a.path)}"
        )


def _are_equal(keys_a: Collection[Hashable], keys_b: Collection[Hashable]) -> bool:
    hashes = np.sort(hashes_of(keys_a)), np.sort(hashes_of(keys_b))  # sets of ids take 20 times as much
    return np.array_equal(*hashes) and not (hashes[0][1:] == hashes[0][:-1]).any()


class OfQuestion(Protocol):
    """A row about one question."""

    @property
    def question_id(self) -> str:
        """The id of the question, as in the table of questions."""


QuestionRow = TypeVar("QuestionRow", bound=OfQuestion)


def typed_rows_of_all(
    artifact: Artifact, table: str, questions: Artifact, kind: type[QuestionRow]
) -> Sequence[QuestionRow]:
    """Return a table's rows, one for each of the questions, as `kind`.

    Raises `CorruptArtifactError` unless it has those, about the same videos and clips as far as it says.
    """
    names = [name for name in ("question_id", "video_id", "clip_id") if name in artifact.tables[table].columns]
    keys = Zipped([artifact.column(table, name) for name in names])
    refuse_cut(artifact, keys, questions, Zipped([questions.column("questions", name) for name in names]), "questions")
    return artifact.typed_rows(table, kind)
