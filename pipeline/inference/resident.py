"""Frozen models that stay loaded: from one step of a chain to the next, or from one question to the next."""

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
Given = ParamSpec("Given")


@dataclass
class Models:
    """What stays loaded, by part, precision, device and the digests of its files.

    Attributes:
        in_turn: only a language model is kept, and goes before another is loaded: the ViT's memory is wanted by what comes after.
    """

    in_turn: bool = False
    loaded: dict[tuple[str, ...], Any] = field(default_factory=dict)


_models: ContextVar[Models | None] = ContextVar("models", default=None)


@contextmanager
def keeping_models(models: Models) -> Iterator[None]:
    """Have what is loaded in the block kept in `models`, and taken from there; nothing may train it."""
    before = _models.set(models)
    try:
        yield
    finally:
        _models.reset(before)


def keeping_language(chain: Callable[Given, Result]) -> Callable[Given, Result]:
    """Have the steps of a chain share one language model: the largest part, which nothing trains."""

    @wraps(chain)
    def walk(*args: Given.args, **options: Given.kwargs) -> Result:
        if _models.get() is not None:
            return chain(*args, **options)
        with keeping_models(Models(in_turn=True)):
            return chain(*args, **options)

    return walk


def give_back_language() -> None:
    """Let go of a chain's language model, where its memory is wanted by other models or processes."""
    models = _models.get()
    if models is not None and models.in_turn and models.loaded:
        models.loaded.clear()
        free_gpu_memory()


def resident(weights: Artifact, part: str, precision: str, run: RunContext, load: Callable[[], Model]) -> Model:
    """Return what `load` returns, or did for the same part of the same weights on this device, if such models are kept."""
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


@cache  # once in a process, not for each model
def warn_of_slow(precision: str) -> None:
    """Warn of a precision that a CPU is not made for."""
    log.warning(
        "models compute in %s on a CPU: on most far slower than in float32, with other last digits than a GPU's; "
        "--precision float32 is for CPUs",
        precision,
    )
