"""Tables of benchmarks are printed, and written with the facts of the run."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from benchmarks.report import show

ROOT = Path(__file__).parents[1]


def test_a_table_is_printed_and_written_with_the_facts_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    show("speed", [["work", "seconds"], ["reading", "1.5"]], videos=7)
    assert capsys.readouterr().out == "work     seconds\nreading      1.5\n"
    (path,) = (tmp_path / "out").iterdir()
    content = json.loads(path.read_text())
    assert path.name == "speed.json" and content["rows"] == [{"work": "reading", "seconds": "1.5"}]
    facts = content["facts"]
    assert facts["videos"] == 7 and facts["processor"] not in ("", "CPU")
    assert {"date", "cores", "threads", "load_at_start", "python", "torch", "revision", "command"} <= facts.keys()


def test_every_benchmark_writes_what_it_prints_and_says_where() -> None:
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        text = path.read_text()
        if "__main__" in text:
            about = ast.get_docstring(ast.parse(text)) or ""
            assert re.search(rf'\b(show|Report)\("{path.stem}', text), f"{path} writes no JSON"
            assert re.search(rf"`{path.stem}\w*\.json`", about) and "OUT" in about, (
                f"{path} does not say what it writes"
            )
