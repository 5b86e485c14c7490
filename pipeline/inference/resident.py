"""Frozen models by the digests of their files, shared by the steps of a chain."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from pipeline.engine.stage import Artifact, RunContext
from pipeline.engine.weights import Weights
from pipeline.loaded_models import kept_model

log = logging.getLogger("sevila")

Model = TypeVar("Model")


def resident(
    weights: Artifact | Weights, part: str, precision: str, run: RunContext, load: Callable[[], Model]
) -> Model:
    """Return a kept model of the same part, weights, precision and device, else the result of `load`, kept if models are kept.

    It is shared: it must not be changed, nor trained.
    """
    if precision != "float32" and run.torch_device() == "cpu":
        warn_of_slow(precision)
    if isinstance(weights, Weights):
        digests = sorted(weights.files.values())
    else:
        digests = sorted(file["sha256"] for file in weights.record.files.values())
    return kept_model((part, precision, run.torch_device(), *digests), load)


@cache  # once per process
def warn_of_slow(precision: str) -> None:
    """Warn of a precision that is slow on a CPU."""
    log.warning(
        "models compute in %s on a CPU, which is usually much slower than float32 and differs from a GPU in the last digits; "
        "for CPUs use --precision float32",
        precision,
    )
