"""Commands accept the simulated store on which they are measured."""

from pathlib import Path

import pytest

from cli import main
from tests.big_store import SETTINGS, commands, make


def test_the_simulated_store_passes_plan_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, n_videos=4, n_questions=20, settings=SETTINGS[:1])
    assert main(commands(tmp_path)["plan, everything made"]) == 0
    assert capsys.readouterr().out.endswith("10 exists, 0 build, 0 blocked\n")
    assert main(commands(tmp_path)["cache verify --all"]) == 0
