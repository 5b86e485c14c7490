"""What `sevila doctor` reports: findings, each with its fix, and how many problems there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from cache.errors import SevilaError
from pipeline.text_table import wrap_words

FindingState = Literal["ok", "note", "problem"]
STATE_MARKS: dict[FindingState, str] = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


class Finding(NamedTuple):
    """One thing that was looked at; `fix` says what to do about it, empty where nothing has to be done.

    A note stops nothing that can do without it; a problem does.
    """

    subject: str
    state: FindingState
    text: str
    fix: str = ""


def looked_at(subject: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what `look` finds; that it cannot look is a problem of the subject."""
    try:
        return list(look())
    except (SevilaError, OSError) as error:
        return [Finding(subject, "problem", str(error))]


def findings_text(findings: list[Finding], columns: int) -> str:
    """Return the findings by subject, with their fixes below, a line each or as many as so many columns ask for."""
    lines, subject = [], ""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        head = finding.subject if finding.subject != subject else ""
        subject = finding.subject
        begin, below = f"{head:{width}}  {STATE_MARKS[finding.state]:7}  ", " " * (width + 11)
        lines += wrap_words(finding.text, columns, begin, below)
        lines += wrap_words(finding.fix, columns, f"{below}-> ", f"{below}   ") if finding.fix else []
    n_problems = sum(finding.state == "problem" for finding in findings)
    last = f"{n_problems} problem{'s' if n_problems > 1 else ''}" if n_problems else "no problems"
    return "\n".join([*lines, "", last])
