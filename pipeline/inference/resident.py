"""Frozen models that stay loaded from one question to the next, where somebody waits for the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from pipeline.engine.stage import Artifact, RunContext

Model = TypeVar("Model")
Models = dict[tuple[str, ...], Any]

_models: ContextVar[Models | None] = ContextVar("models", default=None)


@contextmanager
def keeping_models(models: Models) -> Iterator[None]:
    """Have what is loaded in the block kept in `models`, and taken from there; nothing may train it."""
    before = _models.set(models)
    try:
        yield
    finally:
        _models.reset(before)


def resident(weights: Artifact, part: str, precision: str, run: RunContext, load: Callable[[], Model]) -> Model:
    """Return what `load` returns, or did for the same part of the same weights on this device, if models are kept."""
    models = _models.get()
    if models is None:
        return load()
    digests = sorted(file["sha256"] for file in weights.record.files.values())
    key = (part, precision, run.torch_device(), *digests)
    if key not in models:
        models[key] = load()
    model: Model = models[key]
    return model
