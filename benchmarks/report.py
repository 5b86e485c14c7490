"""What benchmarks print and write: tables, at the end, and reports of many figures, whose figures a killed run keeps.

Files are written to the folder in the environment variable OUT, by default the current one.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Busy
from cache.files import write_for_user
from pipeline.engine.hardware import processor_name
from pipeline.text_table import aligned
from pipeline.threads import usable_cores

LIBRARIES = ("torch", "transformers", "h5py", "pyarrow", "numpy")


def show(name: str, lines: Sequence[Sequence[str]], n_left: int = 1, **facts: Any) -> None:
    """Print a table whose first line is the header, and write `NAME.json`: the facts of the run, and rows by the header's cells.

    Args:
        n_left: number of columns that are aligned left.
        facts: describe the run beyond its command.
    """
    print(aligned(lines, n_left))
    head, *rows = lines
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    _write_json(name, {"facts": {**facts, **FACTS}, "rows": cells})


class Report:
    """Sections of rows of figures by name; names include the unit."""

    def __init__(self, name: str, **facts: Any) -> None:
        """Write `NAME.json` and `NAME.md`; `facts` describe the run, such as its sizes."""
        self._name = name
        self._start = time.perf_counter()
        self.content: dict[str, Any] = {"facts": {**facts, **FACTS}, "sections": {}}

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
        _write_json(self._name, self.content)
        _write(f"{self._name}.md", self._markdown())

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


def _write_json(name: str, content: dict[str, Any]) -> None:
    _write(f"{name}.json", json.dumps(content, indent=1) + "\n")


def _write(file_name: str, text: str) -> None:
    """Write a file whole: a kill leaves the one before, or none."""
    write_for_user(Path(os.environ.get("OUT", ".")) / file_name, text.encode())


def _facts() -> dict[str, Any]:
    words = ["git", "rev-parse", "--short", "HEAD"]
    revision = ""
    with suppress(OSError):  # git is not installed
        revision = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    return {
        "processor": processor_name(),
        "date": datetime.now(UTC).date().isoformat(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
        "revision": revision.strip() or "unknown",
        "command": " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }


FACTS = _facts()  # at the start: load and revision change while a benchmark runs
