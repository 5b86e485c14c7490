"""Speed of opening, filtering and searching the report of many questions: `python -m benchmarks.report_page [questions]`.

A simulated store (tests/big_store.py) with two runs and 50 questions per video; the command line writes their report, and
Chromium loads it from disk. Tables and data files have realistic sizes; images do not, as frames have 2 by 2 pixels. Writes
`report_page.json` to OUT, by default the current folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import show
from tests.big_store import make
from tests.browser import WatchedPage, chromium

QUESTIONS, QUESTIONS_PER_VIDEO, LOADS = 50_000, 50, 5
MAX_PAINT_SECONDS, MAX_FILE_BYTES = 2.0, 20e6
RUNS = {"k-4": "select_keyframes.k=4", "k-2": "select_keyframes.k=2"}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
# From the change of a control until the browser has drawn the list; a search starts 150 ms after the last letter.
CHANGED = """([id, value]) => new Promise((done) => {
  const control = document.getElementById(id), started = performance.now();
  const drawn = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - started)));
  const options = {childList: true, characterData: true, subtree: true};
  new MutationObserver((_, observer) => { observer.disconnect(); drawn(); }).observe(document.getElementById("results"), options);
  control.value = value;
  for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind, {bubbles: true}));
})"""


def write(folder: Path, n_questions: int) -> tuple[Path, float]:
    """Return the folder of a report of two runs over `n_questions`, and the seconds for writing it."""
    make(folder, max(1, n_questions // QUESTIONS_PER_VIDEO), n_questions, list(RUNS.values()))
    command = [sys.executable, "-m", "sevila", "report", *RUNS, "--store", str(folder / "store"), "--output"]
    started = time.perf_counter()
    subprocess.run([*command, str(folder / "report")], check=True, stdout=subprocess.DEVNULL)
    return folder / "report", time.perf_counter() - started


def load(browser: Any, report: Path, n_questions: int) -> list[float]:
    """Return the seconds until the first paint and until the examples are loaded, for a filter, and for a search."""
    started = time.perf_counter()
    page = WatchedPage(browser, report).page
    ready = time.perf_counter() - started
    controls = (["by-result", "right"], ["by-text", f"question {n_questions - 1} "])
    changes = [page.evaluate(CHANGED, change) / 1000 for change in controls]
    assert page.locator("#results li").count() <= 1, "the search looks at all questions"
    seconds = [page.evaluate(PAINT) / 1000, ready, *changes]
    page.close()
    return seconds


def main(n_questions: int) -> bool:
    """Print a table, and return whether the limits are met."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        report, seconds = write(Path(folder), n_questions)
        sizes = {path: path.stat().st_size for path in report.rglob("*") if path.is_file()}
        loads = [load(browser, report, n_questions) for _ in range(LOADS)]
    largest = max(sizes, key=lambda path: sizes[path])
    paint, ready, filtered, searched = (median(column) for column in zip(*loads, strict=True))
    lines = [
        [f"{n_questions:,} questions, two runs", f"median of {LOADS}", "limit"],
        ["first paint", f"{paint:.2f} s", f"< {MAX_PAINT_SECONDS:.0f} s"],
        ["examples loaded", f"{ready:.2f} s", ""],
        ["a filter over all questions", f"{filtered:.2f} s", ""],
        ["a search in all questions", f"{searched:.2f} s", ""],
        [f"largest of {len(sizes)} files", f"{sizes[largest] / 1e6:.1f} MB", f"< {MAX_FILE_BYTES / 1e6:.0f} MB"],
        ["all files", f"{sum(sizes.values()) / 1e6:.1f} MB", ""],
        ["written in", f"{seconds:.0f} s", ""],
    ]
    show("report_page", lines)
    return paint < MAX_PAINT_SECONDS and sizes[largest] < MAX_FILE_BYTES


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else QUESTIONS) else 1)
