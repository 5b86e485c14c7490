"""Values that are not finite: what they belong to is a failed row with one of these codes; where all are, it is an error."""

from __future__ import annotations

from collections.abc import Iterable

from cache.errors import SevilaError
from pipeline.output import ShardedOutput

FEATURES, SCORES, ANSWERS = "not_finite_features", "not_finite_scores", "not_finite_answers"
# Of a question that was not asked about a video that could be read: the artifact with the features says what happened.
WITHOUT_FEATURES = f"{FEATURES}: some frame of the video has no finite features"
MANY_VIDEOS = 16  # of which nothing is finite, from the first one on: nobody has to wait for the others


def code_of(reason: str) -> str:
    """Return the code of a reason, `code: details`."""
    return reason.split(":")[0]


class FiniteCheck:
    """Watches the rows of one stage that fail with a code, over all shards that a process makes."""

    def __init__(self, code: str, problem: str) -> None:
        """Args: `problem`, what to say where no row is finite."""
        self._code = code
        self._problem = problem
        self._any_finite = False
        self._failed: set[str] = set()

    def see(self, rows: Iterable[tuple[str, str]]) -> None:
        """Take note of rows as (video_id, reason), the reason empty where all is well.

        Raises:
            SevilaError: none of the rows of many videos was finite.
        """
        for video_id, reason in rows:
            self._any_finite |= not reason
            if code_of(reason) == self._code:
                self._failed.add(video_id)
        if not self._any_finite and len(self._failed) >= MANY_VIDEOS:
            raise SevilaError(self._problem)

    def end(self, out: ShardedOutput, n_rows: int) -> None:
        """Raise `SevilaError` if all of the `n_rows` that are counted where they fail did, some with this code."""
        out.refuse_all(self._code, n_rows, self._problem)
