"""Bars in a terminal, each one line of whole words however narrow it is."""

from __future__ import annotations

from tqdm import tqdm
from tqdm.utils import disp_len

WITH_TIMES = ("{l_bar}{bar}{r_bar}", "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]")
WITHOUT_TIMES = ("{desc}: {percentage:3.0f}%{postfix}", "{percentage:3.0f}%")


class FittingBar(tqdm):
    """A bar that leaves out whole what does not fit: its rate, the end of what is said after it, then times and its name."""

    def __str__(self) -> str:
        """Return the line that is drawn; empty where not even the percentage fits."""
        fields = self.format_dict
        if not fields["ncols"]:
            return str(self.format_meter(**fields))
        parts = (fields["postfix"] or "").split(", ")
        ends = [", ".join(parts[:n]) for n in range(len(parts), -1, -1)]
        own = [fields["bar_format"]] if fields["bar_format"] else WITH_TIMES
        for form, end in [(form, end) for end in ends for form in own] + [
            (form, end) for form in WITHOUT_TIMES for end in ends
        ]:
            fields |= {"postfix": end, "bar_format": form}
            without_bar = fields | {"ncols": None, "bar_format": form.replace("{bar}", " ")}
            if disp_len(self.format_meter(**without_bar)) <= fields["ncols"]:
                return str(self.format_meter(**fields))
        return ""
