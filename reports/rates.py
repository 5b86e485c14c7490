"""What stages were measured to do, and on which card; the one place that says so to programs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pipeline.engine.toml_file import read_toml


@cache
def measured_rates() -> dict[str, Any]:
    """Return `rates.toml`."""
    return read_toml(Path(__file__).with_name("rates.toml"))
