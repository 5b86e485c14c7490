"""How fast the report of many questions opens, filters and searches: `python -m benchmarks.report_page [questions]`.

A simulated store (tests/big_store.py) with two runs over one video for 50 questions, their report by the command line, read from
the disk by Chromium. Tables, and so data files, are of true size; pictures are not, as frames of the store have 2 by 2 pixels.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.text_table import aligned
from tests.big_store import make
from tests.browser import WatchedPage, chromium

QUESTIONS, A_VIDEO, LOADS = 50_000, 50, 5
MOST_PAINT_SECONDS, MOST_FILE_BYTES = 2.0, 20e6
RUNS = {"k-4": "select_keyframes.k=4", "k-2": "select_keyframes.k=2"}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
# From a change of a control until the browser has drawn the list; a search begins 150 ms after the last letter.
CHANGED = """([id, value]) => new Promise((done) => {
  const control = document.getElementById(id), started = performance.now();
  const drawn = () => requestAnimationFrame(() => setTimeout(() => done(performance.now() - started)));
  const options = {childList: true, characterData: true, subtree: true};
  new MutationObserver((_, observer) => { observer.disconnect(); drawn(); }).observe(document.getElementById("results"), options);
  control.value = value;
  for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind, {bubbles: true}));
})"""


def write(folder: Path, n_questions: int) -> tuple[Path, float]:
    """Return the folder of a report of two runs over so many questions, and the seconds that writing it took."""
    make(folder, max(1, n_questions // A_VIDEO), n_questions, list(RUNS.values()))
    command = [sys.executable, "-m", "sevila", "report", *RUNS, "--store", str(folder / "store"), "--output"]
    started = time.perf_counter()
    subprocess.run([*command, str(folder / "report")], check=True, stdout=subprocess.DEVNULL)
    return folder / "report", time.perf_counter() - started


def load(browser: Any, report: Path, n_questions: int) -> list[float]:
    """Return the seconds until the first paint, until the examples are there, of a filter and of a search."""
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
    """Print a table, and return whether it is as fast and as small as is wanted."""
    with tempfile.TemporaryDirectory() as place, chromium() as browser:
        report, seconds = write(Path(place), n_questions)
        sizes = {path: path.stat().st_size for path in report.rglob("*") if path.is_file()}
        loads = [load(browser, report, n_questions) for _ in range(LOADS)]
    largest = max(sizes, key=lambda path: sizes[path])
    paint, ready, filtered, searched = (median(column) for column in zip(*loads, strict=True))
    lines = [
        [f"{n_questions:,} questions, two runs", f"median of {LOADS}", "wanted"],
        ["first paint", f"{paint:.2f} s", f"< {MOST_PAINT_SECONDS:.0f} s"],
        ["examples are there", f"{ready:.2f} s", ""],
        ["a filter over all questions", f"{filtered:.2f} s", ""],
        ["a search in all questions", f"{searched:.2f} s", ""],
        [f"largest of {len(sizes)} files", f"{sizes[largest] / 1e6:.1f} MB", f"< {MOST_FILE_BYTES / 1e6:.0f} MB"],
        ["all files", f"{sum(sizes.values()) / 1e6:.1f} MB", ""],
        ["written in", f"{seconds:.0f} s", ""],
    ]
    print(aligned(lines))
    return paint < MOST_PAINT_SECONDS and sizes[largest] < MOST_FILE_BYTES


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else QUESTIONS) else 1)
