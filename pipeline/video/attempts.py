"""Tries at the videos of a shard in fresh processes: which failures are of a video's bytes, and how long the machine's are borne.

Only what fails because of its bytes may stand in an artifact for ever. Anything else is tried again, with growing pauses, and
then ends the stage: what is finished stays.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable

from cache.errors import DecodeError, DecoderDeathError, HalfwayError, MachineError, ReadingError
from pipeline.reasons import Reason

log = logging.getLogger("sevila")

PAUSES_SECONDS = (1.0, 4.0, 15.0, 60.0)  # between tries that the machine has failed, since the last video that was read
FAILURES = 2  # with the same message in fresh processes, until one is taken to be of the bytes
DEATHS = 3  # hangs or crashes likewise, if another video was read since the first failure
DEATHS_ALONE = 5  # otherwise
FAILURES_AT_MOST = 6  # of one kind, whatever the messages
TROUBLES_IN_A_ROW = 4  # after which a round is given up: most likely everything else would fail as well


class Attempts:
    """The outcomes of the tries at each video, by key; `reasons` holds those that failed for good."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._read: set[str] = set()
        self._n_read_before: dict[str, int] = {}  # how many videos had been read when each one failed first
        self._failures: dict[str, Counter[str]] = defaultdict(Counter)  # by message, and by kind
        self._decord_failures: dict[str, str] = {}
        self._troubles: dict[str, ReadingError] = {}  # the last of each video that is still to be read
        self._in_a_row = 0
        self._n_pauses = 0

    def is_repeated(self, key: str) -> bool:
        """Whether this video has failed before, so that its bytes are to be checked first."""
        return key in self._failures or key in self._troubles

    def decord_failure(self, key: str) -> str:
        """Why this video is to be read without decord; "" if decord is to read it."""
        return self._decord_failures.get(key, "")

    @property
    def is_hopeless(self) -> bool:
        """Whether it is better to wait than to try more videos now."""
        return self._in_a_row >= TROUBLES_IN_A_ROW

    def note(self, key: str, error: DecodeError | ReadingError | None) -> None:
        """Note how a try has ended; None: the video was read."""
        self._troubles.pop(key, None)
        if error is not None:
            self._n_read_before.setdefault(key, len(self._read))
        if isinstance(error, ReadingError):
            log.warning("%s; it will be tried again", error)
            self._troubles[key] = error
            self._in_a_row += 1
            return
        self._in_a_row = 0
        if error is None:
            self._read.add(key)
            self._n_pauses = 0
            return
        kind, message = Reason(error).code, str(error)
        self._failures[key].update({kind, message})
        needed = FAILURES
        if isinstance(error, DecoderDeathError):
            needed = DEATHS if len(self._read) > self._n_read_before[key] else DEATHS_ALONE
        if self._failures[key][message] >= needed or self._failures[key][kind] >= FAILURES_AT_MOST:
            (self._decord_failures if isinstance(error, HalfwayError) else self.reasons)[key] = message

    def is_over(self, key: str) -> bool:
        """Whether nothing more is to be tried: the video was read, or failed for good."""
        return key in self._read or key in self.reasons

    def next_round(self, keys: Iterable[str]) -> list[str]:
        """Return these videos in the order to try them, after a pause if the machine is in trouble.

        Raises:
            MachineError: no pause has helped.
        """
        self._in_a_row = 0
        if self._troubles:
            self._pause()
        return sorted(keys, key=lambda key: key in self._troubles)  # first those that nobody has got to

    def _pause(self) -> None:
        if self._n_pauses == len(PAUSES_SECONDS):
            raise MachineError(self._message())
        pause = PAUSES_SECONDS[self._n_pauses]
        self._n_pauses += 1
        log.warning("%d videos could not be read; they are tried again in %g s", len(self._troubles), pause)
        time.sleep(pause)

    def _message(self) -> str:
        n_others = len(self._troubles) - 1
        return (
            f"{next(iter(self._troubles.values()))}"
            + (f" (and {n_others} other videos likewise)" if n_others else "")
            + f"; tried {len(PAUSES_SECONDS) + 1} times in {sum(PAUSES_SECONDS):g} s. Nothing of this is kept as a result. "
            "When the cause is gone, the same command goes on from the finished shards and videos; a file that is to be left out "
            "can be moved out of the videos folder"
        )
