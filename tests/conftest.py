from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-dir",
        type=Path,
        default=Path(__file__).parent / "golden" / "parity",
        help="folder of reference numbers to reproduce (layout: tests/golden/README.md)",
    )
