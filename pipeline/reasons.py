"""Reasons of failures, as stored in tables."""

from __future__ import annotations


class Reason(str):
    """The reason why a row failed, `code: details` or a code alone; empty if it did not fail.

    Stored tables have it in one column; only this class splits code and details.
    """

    __slots__ = ()

    @property
    def code(self) -> str:
        """The kind of failure, for counts and comparisons."""
        return str(self).partition(":")[0]  # a plain str

    @property
    def details(self) -> str:
        """The rest of the reason, for messages; empty if there is none."""
        return str(self).partition(":")[2].strip()
