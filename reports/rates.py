"""Measured rates of stages, with the GPU that they were measured on (`rates.toml`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pipeline.engine.toml_file import read_toml


@cache
def measured_rates() -> dict[str, Any]:
    """Return the content of `rates.toml`."""
    return read_toml(Path(__file__).with_name("rates.toml"))
