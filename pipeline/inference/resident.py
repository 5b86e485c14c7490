"""Frozen models that stay loaded between the steps of a chain, or between questions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

from pipeline.engine.hardware import free_gpu_memory
from pipeline.engine.stage import Artifact, RunContext

log = logging.getLogger("sevila")

Model = TypeVar("Model")
Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


@dataclass
class Models:
    """Loaded models by part, precision, device and the digests of their files.

    Attributes:
        in_turn: keep a single language model only, and drop it before another model is loaded, as memory is limited.
    """

    in_turn: bool = False
    loaded: dict[tuple[str, ...], Any] = field(default_factory=dict)


_models: ContextVar[Models | None] = ContextVar("models", default=None)


@contextmanager
def keeping_models(models: Models) -> Iterator[None]:
    """Keep the models loaded within the block in `models`, and reuse those in it; they must not be trained."""
    token = _models.set(models)
    try:
        yield
    finally:
        _models.reset(token)


def keeping_language(chain: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a chain so that its steps share one language model, the largest part, which is never trained."""

    @wraps(chain)
    def walk(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        if _models.get() is not None:
            return chain(*args, **options)
        with keeping_models(Models(in_turn=True)):
            return chain(*args, **options)

    return walk


def give_back_language() -> None:
    """Release a chain's language model to free memory for other models or processes."""
    models = _models.get()
    if models is not None and models.in_turn and models.loaded:
        models.loaded.clear()
        free_gpu_memory()


def resident(weights: Artifact, part: str, precision: str, run: RunContext, load: Callable[[], Model]) -> Model:
    """Return a kept model of the same part, weights, precision and device, else the result of `load`, kept if models are kept."""
    if precision != "float32" and run.torch_device() == "cpu":
        warn_of_slow(precision)
    models = _models.get()
    if models is None or (models.in_turn and part != "language"):
        return load()
    digests = sorted(file["sha256"] for file in weights.record.files.values())
    key = (part, precision, run.torch_device(), *digests)
    if key not in models.loaded:
        give_back_language()
        models.loaded[key] = load()
    model: Model = models.loaded[key]
    return model


@cache  # once per process
def warn_of_slow(precision: str) -> None:
    """Warn of a precision that is slow on a CPU."""
    log.warning(
        "models compute in %s on a CPU, which is usually much slower than float32 and differs from a GPU in the last digits; "
        "for CPUs use --precision float32",
        precision,
    )
