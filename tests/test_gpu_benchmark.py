"""The GPU benchmark on a CPU at a tiny size, so that its code is tested without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("hardware", "parity", "stages", "memory", "model", "equality", "command")


@pytest.mark.slow
def test_the_gpu_benchmark_measures_every_part_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--size", "tiny", "--device", "cpu", "--only", *PARTS]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OUT": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    sections = content["sections"]
    assert "failed" not in sections, sections["failed"]
    assert set(PARTS) <= content["part_seconds"].keys()
    rates = {
        "extract_features": "frames",
        "score_frames": "pairs",
        "answer_questions": "questions",
        "label_frames": "pairs",
    }
    for stage, unit in (rates | dict.fromkeys(("refine_localizer", "finetune_answerer"), "questions")).items():
        assert sections["stages"][stage][f"{unit}_per_second"] > 0, stage
    assert sections["parity"]["float32"]["logit_yes"] < 5e-5
    for precision in ("int8", "fp8"):
        assert sections["parity"][precision]["logit_yes"] < sections["parity"][precision]["tolerance"]
        assert sections["stages"][f"score_frames precision={precision}"]["pairs_per_second"] > 0
        assert sections["model"][f"Localizer {precision}, 1024 tokens"]["pairs_per_second"] > 0
        assert sections["equality"][f"ViT float32, Flan-T5 {precision}, against float32"]["questions"] > 0
    assert [row["status"] for row in sections["command"].values()] == [0, 0]
    table = (tmp_path / "gpu.md").read_text()
    assert "| extract_features |" in table and content["facts"]["date"] in table
