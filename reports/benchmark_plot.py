"""The trend of a benchmark as a picture: accuracy and speed by night, a line for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cache.files import published
from reports.benchmark_history import OK, NightRow

NIGHTS_SHOWN = 90
HALF_A_DAY = timedelta(hours=12)


def plot(rows: Sequence[NightRow], path: Path) -> Path | None:
    """Write the picture of the last nights and return its path; None without a number to show."""
    nights = sorted({row.night for row in rows})[-NIGHTS_SHOWN:]
    lines: dict[str, list[NightRow]] = {}
    for row in rows:
        if row.status == OK and row.night in nights:
            lines.setdefault(row.name, []).append(row)
    if not lines:
        return None
    from matplotlib.figure import Figure  # without pyplot: no window system is asked for, no global state kept

    picture = Figure(figsize=(9, 5.5), layout="constrained", dpi=80)
    accuracy, speed = picture.subplots(2, 1, sharex=True)
    for name, line in lines.items():
        times = [_time(row.night) for row in line]
        accuracy.plot(times, [_number(row.metric_percent) for row in line], marker=".", label=name)
        speed.plot(times, [_number(row.questions_per_second) for row in line], marker=".")
    metrics = sorted({row.metric for line in lines.values() for row in line})
    accuracy.set_ylabel(f"{', '.join(metrics)} (%)")
    speed.set_ylabel("questions/s")
    speed.set_ylim(bottom=0)
    # One night alone would get years around it.
    speed.set_xlim(_time(nights[0]) - HALF_A_DAY, _time(nights[-1]) + HALF_A_DAY)
    speed.tick_params(axis="x", rotation=30)
    for axes in (accuracy, speed):
        axes.grid(alpha=0.3)
    accuracy.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    with published(path) as part:
        picture.savefig(part, format="png")
    return path


def _time(night: str) -> datetime:
    return datetime.strptime(night[:19], "%Y-%m-%dT%H-%M-%S")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
