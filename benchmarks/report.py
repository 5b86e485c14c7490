"""Reports of benchmarks: each figure is printed, and written to JSON and Markdown at once, so that a killed run keeps it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.timing import Busy

LIBRARIES = ("torch", "transformers", "h5py", "pyarrow", "numpy")


class Report:
    """Sections of rows of figures by name; names include the unit."""

    def __init__(self, name: str, folder: Path, **facts: Any) -> None:
        """Write `NAME.json` and `NAME.md` to a folder; `facts` describe the run, such as sizes and device."""
        self._path = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        self._start = time.perf_counter()
        self.content: dict[str, Any] = {"facts": {**facts, **_facts()}, "sections": {}}

    def add(self, section: str, row: str, **figures: Any) -> None:
        """Add a row, print it, and write the files."""
        self.content["sections"].setdefault(section, {})[row] = figures
        shown = ", ".join(f"{name} {_text(value)}" for name, value in figures.items())
        print(f"[{time.perf_counter() - self._start:6.1f} s] {section}: {row}: {shown}", flush=True)
        self.write()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part; if the block fails, report the error and continue."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.add("failed", name, error=f"{type(error).__name__}: {str(error)[:500]}")
        self.content.setdefault("part_seconds", {})[name] = round(time.perf_counter() - start, 1)

    def kernels(self, row: str, busy: Busy) -> None:
        """Add the longest kernels, if there are any."""
        if busy.kernels:
            self.content.setdefault("kernels", {})[row] = busy.longest_kernels()

    def write(self) -> None:
        """Write `NAME.json` and `NAME.md`."""
        self._path.with_suffix(".json").write_text(json.dumps(self.content, indent=1) + "\n")
        self._path.with_suffix(".md").write_text(self._markdown())

    def _markdown(self) -> str:
        facts = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.content["facts"].items())
        lines = [f"{facts}", ""]
        for section, rows in self.content["sections"].items():
            columns = list(dict.fromkeys(name for figures in rows.values() for name in figures))
            lines += [f"### {section.capitalize()}", "", f"| | {' | '.join(c.replace('_', ' ') for c in columns)} |"]
            lines.append("|---" * (len(columns) + 1) + "|")
            for row, figures in rows.items():
                cells = [_text(figures[name]) if name in figures else "" for name in columns]
                lines.append(f"| {row} | {' | '.join(cells)} |")
            lines.append("")
        return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts() -> dict[str, Any]:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
        "revision": git.stdout.strip() or "unknown",
        "command": " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }
