"""The findings that `sevila doctor` reports, with their fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from cache.errors import SevilaError
from cache.printable import counted
from pipeline.text_table import wrap_words

FindingState = Literal["ok", "note", "problem"]
STATE_MARKS: dict[FindingState, str] = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


class Finding(NamedTuple):
    """The result of one check; `fix` says what to do, and is empty if nothing has to be done.

    A note concerns something optional; a problem stops runs.
    """

    subject: str
    state: FindingState
    text: str
    fix: str = ""


def findings_of(subject: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return the findings of `look`; an error that it raises becomes a problem of the subject."""
    try:
        return list(look())
    except (SevilaError, OSError) as error:
        return [Finding(subject, "problem", str(error))]


def findings_text(findings: list[Finding], columns: int) -> str:
    """Return the findings by subject, each followed by its fix, wrapped at `columns` characters."""
    lines, subject = [], ""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        label = finding.subject if finding.subject != subject else ""
        subject = finding.subject
        start, indent = f"{label:{width}}  {STATE_MARKS[finding.state]:7}  ", " " * (width + 11)
        lines += wrap_words(finding.text, columns, start, indent)
        lines += wrap_words(finding.fix, columns, f"{indent}-> ", f"{indent}   ") if finding.fix else []
    n_problems = sum(finding.state == "problem" for finding in findings)
    return "\n".join([*lines, "", counted(n_problems, "problems") if n_problems else "no problems"])
