"""Why something failed, as tables hold it."""

from __future__ import annotations


class Reason(str):
    """Why a row failed, `code: details` or a code alone; empty where nothing failed.

    One column in every table that was ever written, which is why code and details are split here, and only here.
    """

    __slots__ = ()

    @property
    def code(self) -> str:
        """What kind of failure it is, to count and to compare."""
        return str(self).partition(":")[0]  # no `Reason`

    @property
    def details(self) -> str:
        """What more is known, for people; empty if nothing is."""
        return str(self).partition(":")[2].strip()
