"""Frozen models that stay loaded between steps, and are dropped when memory is wanted."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any, TypeVar
from weakref import ref

from pipeline.devices import device_memory

Model = TypeVar("Model")

FREE_SHARE = 0.25  # of a device's memory that stays free for batches


class Models:
    """Loaded models by part, precision, device and the digests of their files, the least recently used first."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, ...], Any] = {}
        self._lock = RLock()  # branches of a chain are threads

    def get(self, key: tuple[str, ...], load: Callable[[], Model]) -> Model:
        """Return the kept model of this key, or the result of `load`, which is kept."""
        with self._lock:
            model: Model = self._loaded.pop(key) if key in self._loaded else load()
            self._loaded[key] = model
            return model

    def drop_oldest(self) -> bool:
        """Drop the least recently used model that nobody else references; return whether there is one."""
        with self._lock:
            for key in list(self._loaded):
                model = ref(self._loaded.pop(key))  # weak: it is freed here if nobody else holds it
                gc.collect()  # a finished step may have left it in a reference cycle
                in_use = model()
                if in_use is None:
                    free_gpu_memory()
                    return True
                self._loaded[key] = in_use
            return False


_models: ContextVar[Models | None] = ContextVar("models", default=None)


@contextmanager
def keeping_models(models: Models | None = None) -> Iterator[None]:
    """Keep the models that are loaded within the block, or the decorated function, and share them between its steps.

    Args:
        models: where to keep them; default: where an enclosing block does, or until the end of this one.
    """
    token = _models.set(models or _models.get() or Models())
    try:
        yield
    finally:
        _models.reset(token)


def kept_model(key: tuple[str, ...], load: Callable[[], Model]) -> Model:
    """Return the model of this key from those that are kept, or the result of `load`."""
    models = _models.get()
    return load() if models is None else models.get(key, load)


def drop_oldest() -> bool:
    """Drop a kept model as `Models.drop_oldest`; False if none are kept."""
    models = _models.get()
    return models is not None and models.drop_oldest()


def make_room(n_bytes: float, device: str) -> None:
    """Drop kept models that are not in use until `n_bytes` fit on a device, and then `FREE_SHARE` of its memory is free."""
    while _lacks(n_bytes, device) and drop_oldest():
        pass


def _lacks(n_bytes: float, device: str) -> bool:
    memory = device_memory(device)
    return memory.free - n_bytes < FREE_SHARE * memory.total


def free_gpu_memory() -> None:
    """Free the GPU memory held by unreachable reference cycles and by torch's cache."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
