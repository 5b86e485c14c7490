"""Progress bars that fit into one line of any terminal."""

from __future__ import annotations

from tqdm import tqdm
from tqdm.utils import disp_len

WITH_TIMES = ("{l_bar}{bar}{r_bar}", "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]")
WITHOUT_TIMES = ("{desc}: {percentage:3.0f}%{postfix}", "{percentage:3.0f}%")


class FittingBar(tqdm):
    """A bar that omits whole fields if the terminal is narrow: first the rate, then the postfix, the times and the name."""

    def __str__(self) -> str:
        """Return the line to draw; empty if not even the percentage fits."""
        fields = self.format_dict
        if not fields["ncols"]:
            return str(self.format_meter(**fields))
        parts = (fields["postfix"] or "").split(", ")
        postfixes = [", ".join(parts[:n]) for n in range(len(parts), -1, -1)]
        preferred = [fields["bar_format"]] if fields["bar_format"] else WITH_TIMES
        for form, postfix in [(form, postfix) for postfix in postfixes for form in preferred] + [
            (form, postfix) for form in WITHOUT_TIMES for postfix in postfixes
        ]:
            fields |= {"postfix": postfix, "bar_format": form}
            without_bar = fields | {"ncols": None, "bar_format": form.replace("{bar}", " ")}
            if disp_len(self.format_meter(**without_bar)) <= fields["ncols"]:
                return str(self.format_meter(**fields))
        return ""
