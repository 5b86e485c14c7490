"""Why something failed, as tables hold it."""

from __future__ import annotations


class Reason(str):
    """Why a row failed, `code: details` or a code alone; empty where nothing failed.

    One column in every table that was ever written, which is why code and details are split here, and only here.
    """

    __slots__ = ()

    @property
    def code(self) -> str:
        """The kind of failure, to count and to compare."""
        return str(self).partition(":")[0]  # no `Reason`

    @property
    def details(self) -> str:
        """The rest of the reason, for people; empty if there is none."""
        return str(self).partition(":")[2].strip()
