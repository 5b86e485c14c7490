"""The examples run unchanged on a finished run of the demo data set and its tiny model."""

import json
import runpy
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.small_world import SMALL

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, store: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setenv("SEVILA_STORE", str(store))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_a_tensor_is_scored(
    demo: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("score_a_tensor.py", finished, monkeypatch, str(demo / "tiny-blip2"))
    assert "keyframes [" in capsys.readouterr().out


def test_a_custom_selector_selects_by_the_scores_of_a_run(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("own_selector.py", finished, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24  # three questions of each of the eight videos that can be read
    for line in lines:
        positions = [int(position) for position in line.split("[")[1].strip("]").split()]
        assert 1 <= len(positions) <= 3 and all(b - a >= 3 for a, b in pairwise(positions))


def test_answers_of_a_run_are_a_table(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example("read_results.py", finished, monkeypatch)
    text = capsys.readouterr().out
    assert "right_mean" in text and text.count("no answer: ") == 6 and "because truncated" in text


def test_the_cells_of_the_notebook_run_in_order(finished: Path) -> None:
    notebook = json.loads((EXAMPLES / "keyframes_of_a_question.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for cell in cells:
        exec(cell.replace('"plain", ".sevila"', f"{SMALL!r}, {str(finished)!r}"), names)
    assert names["strip"].size == (4 * 28, 28)  # type: ignore[attr-defined]
