"""SeViLA from Python: run recipes, read their artifacts as tables, and use the models on tensors.

    experiment = sevila.load("plain", annotations="questions.csv", videos="videos")
    answers = experiment.run()["answer_questions"].pandas()

Large modules are loaded on first use. docs/api.md has examples.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sevila.rooms import ROOMS

if TYPE_CHECKING:
    from cache.errors import SevilaError
    from sevila.experiment import Experiment, RunTables, load
    from sevila.models import Answerer, Localizer, OptionAnswer, TensorScores
    from sevila.selecting import select
    from sevila.tables import ArtifactTables, artifact

__all__ = [
    "Answerer",
    "ArtifactTables",
    "Experiment",
    "Localizer",
    "OptionAnswer",
    "RunTables",
    "SevilaError",
    "TensorScores",
    "artifact",
    "load",
    "select",
]

_MODULES = {
    "cache.errors": ["SevilaError"],
    "experiment": ["Experiment", "RunTables", "load"],
    "models": ["Answerer", "Localizer", "OptionAnswer", "TensorScores"],
    "selecting": ["select"],
    "tables": ["ArtifactTables", "artifact"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("sevila-pipeline")
    if name in _MODULE_OF:
        import_module("sevila.pipeline")  # before numerical libraries, as it clears variables that change results
        return getattr(import_module(f"sevila.{_MODULE_OF[name]}"), name)
    if name in (*ROOMS, "extending"):
        return import_module(f"sevila.{name}")
    raise AttributeError(f"module 'sevila' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "extending"])
