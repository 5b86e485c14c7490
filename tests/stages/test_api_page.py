"""The blocks of docs/api.md, run one after the other as they stand, where the names that they use are those of a tiny model."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from cli import main

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLIP2 = "Salesforce/blip2-flan-t5-xl"


def test_the_blocks_of_the_page_run_as_printed(
    demo: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEVILA_STORE", raising=False)
    for library in ("pandas", "polars"):
        pytest.importorskip(library)
    (tmp_path / "sevila.toml").write_text(f'[weights]\n"{BLIP2}" = "{demo / "tiny-blip2"}"\n')
    names = ["init_localizer", "init_answerer", "-o", "sevila_pretrained.pth", "--store", str(finished)]
    assert main(["weights", "export", *names]) == 0
    (tmp_path / "videos").mkdir()
    shutil.copy(min((demo / "videos").iterdir()), tmp_path / "videos" / "walk.mp4")
    with (demo / "questions.csv").open() as stream:
        rows = [row | {"video": "walk"} for row in csv.DictReader(stream)][:3]
    with (tmp_path / "questions.csv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    blocks = re.findall("```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    there = {"/models/blip2": str(demo / "tiny-blip2"), '"select_keyframes.k": 8': '"sample_frames.size": 28'}
    names_of_page: dict[str, object] = {}
    for block in blocks:
        for printed, here in there.items():
            block = block.replace(printed, here)
        exec(block, names_of_page)
    assert len(names_of_page["keyframes"]) == 4 and len(names_of_page["frames"]) == 32  # type: ignore[arg-type]
