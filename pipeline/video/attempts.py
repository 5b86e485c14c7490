"""Retries of a shard's videos in fresh processes, to separate failures of a video's bytes from failures of the machine.

Only a failure of the bytes is stored in an artifact. Any other failure is retried after increasing pauses and finally ends the
stage; finished shards stay.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable

from cache.errors import DecodeError, DecoderDeathError, HalfwayError, MachineError, ReadingError
from pipeline.reasons import Reason

log = logging.getLogger("sevila")

PAUSES_SECONDS = (1.0, 4.0, 15.0, 60.0)  # after consecutive failures of the machine; a video that is read resets them
MAX_FAILURES = 2  # with the same message, each in another process, before the bytes are considered damaged
MAX_DEATHS = 3  # likewise for hangs and crashes, if another video was read since the first failure
MAX_DEATHS_ALONE = 5  # otherwise
MAX_FAILURES_OF_A_KIND = 6  # with any message
MAX_CONSECUTIVE_TROUBLES = 4  # before a round is abandoned: the other videos would most likely fail as well


class Attempts:
    """The outcomes of attempts per video, by key; `reasons` has those of the videos that failed permanently."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._read: set[str] = set()
        self._n_read_before: dict[str, int] = {}  # number of videos read before the first failure of each key
        self._failures: dict[str, Counter[str]] = defaultdict(Counter)  # counts by message and by kind
        self._decord_failures: dict[str, str] = {}
        self._troubles: dict[str, ReadingError] = {}  # the last one of each unfinished video
        self._n_consecutive_troubles = 0
        self._n_pauses = 0

    def is_repeated(self, key: str) -> bool:
        """Return whether this video has failed before; its bytes are then checked first."""
        return key in self._failures or key in self._troubles

    def decord_failure(self, key: str) -> str:
        """Return why this video is read without decord; "" if decord reads it."""
        return self._decord_failures.get(key, "")

    @property
    def is_hopeless(self) -> bool:
        """Whether to pause before more videos are tried."""
        return self._n_consecutive_troubles >= MAX_CONSECUTIVE_TROUBLES

    def note(self, key: str, error: DecodeError | ReadingError | None) -> None:
        """Record the outcome of an attempt; None means that the video was read."""
        self._troubles.pop(key, None)
        if error is not None:
            self._n_read_before.setdefault(key, len(self._read))
        if isinstance(error, ReadingError):
            log.warning("%s; the video will be retried", error)
            self._troubles[key] = error
            self._n_consecutive_troubles += 1
            return
        self._n_consecutive_troubles = 0
        if error is None:
            self._read.add(key)
            self._n_pauses = 0
            return
        kind, message = Reason(error).code, str(error)
        self._failures[key].update({kind, message})
        limit = MAX_FAILURES
        if isinstance(error, DecoderDeathError):
            limit = MAX_DEATHS if len(self._read) > self._n_read_before[key] else MAX_DEATHS_ALONE
        if self._failures[key][message] >= limit or self._failures[key][kind] >= MAX_FAILURES_OF_A_KIND:
            (self._decord_failures if isinstance(error, HalfwayError) else self.reasons)[key] = message

    def is_over(self, key: str) -> bool:
        """Return whether the video was read or failed permanently."""
        return key in self._read or key in self.reasons

    def next_round(self, keys: Iterable[str]) -> list[str]:
        """Return these videos in the order to try them, after a pause if the machine has failed at some.

        Raises:
            MachineError: the machine still fails after the last pause.
        """
        self._n_consecutive_troubles = 0
        if self._troubles:
            self._pause()
        return sorted(keys, key=lambda key: key in self._troubles)  # untried videos first

    def _pause(self) -> None:
        if self._n_pauses == len(PAUSES_SECONDS):
            raise MachineError(self._message())
        pause_seconds = PAUSES_SECONDS[self._n_pauses]
        self._n_pauses += 1
        log.warning("%d videos could not be read; retrying them in %g s", len(self._troubles), pause_seconds)
        time.sleep(pause_seconds)

    def _message(self) -> str:
        n_others = len(self._troubles) - 1
        return (
            f"{next(iter(self._troubles.values()))}"
            + (f" (and {n_others} other videos likewise)" if n_others else "")
            + f"; tried {len(PAUSES_SECONDS) + 1} times in {sum(PAUSES_SECONDS):g} s. These failures are not stored as results. "
            "When the cause is fixed, the same command resumes from the finished shards and videos; to leave a file out, move "
            "it out of the videos folder"
        )
