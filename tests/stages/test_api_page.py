"""The code blocks of docs/api.md run in order as printed, with the paths of a tiny model."""

import re
import shutil
from pathlib import Path

import pytest

from cli import main
from tests.stages.runs import edited

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLIP2 = "Salesforce/blip2-flan-t5-xl"


def test_the_code_blocks_of_the_page_run_as_printed(
    demo: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = edited(demo, tmp_path / "world", lambda rows: [row | {"video": "walk"} for row in rows[:3]])
    monkeypatch.chdir(world)
    monkeypatch.delenv("SEVILA_STORE", raising=False)
    for library in ("pandas", "polars"):
        pytest.importorskip(library)
    (world / "sevila.toml").write_text(f'[weights]\n"{BLIP2}" = "{demo / "tiny-blip2"}"\n')
    names = ["init_localizer", "init_answerer", "-o", "sevila_pretrained.pth", "--store", str(finished)]
    assert main(["weights", "export", *names]) == 0
    shutil.copy(min((demo / "videos").iterdir()), world / "videos" / "walk.mp4")
    blocks = re.findall("```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    replacements = {"/models/blip2": str(demo / "tiny-blip2"), '"select_keyframes.k": 8': '"sample_frames.size": 28'}
    namespace: dict[str, object] = {}
    for block in blocks:
        for printed, here in replacements.items():
            block = block.replace(printed, here)
        exec(block, namespace)
    assert len(namespace["keyframes"]) == 4 and len(namespace["frames"]) == 32  # type: ignore[arg-type]
