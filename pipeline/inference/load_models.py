"""Loading of the Localizer and the Answerer, on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

from pipeline.engine.stage import RunContext
from pipeline.inference.backbone import Backbone
from pipeline.inference.visual_prompt_weights import VisualPromptWeights

if TYPE_CHECKING:
    from pipeline.models.answerer import Answerer
    from pipeline.models.localizer import Localizer

Model = TypeVar("Model")


class OnDemand(Generic[Model]):
    """A model that is loaded on first use, once: shards in which all videos failed need none."""

    def __init__(self, load: Callable[[], Model]) -> None:
        self._load = load

    @cached_property
    def model(self) -> Model:
        """The model on the run's device."""
        return self._load()


def load_localizer(run: RunContext, backbone: Backbone, weights: VisualPromptWeights, precision: str) -> Localizer:
    """Return the Localizer on the run's device, frozen and in evaluation mode."""
    from pipeline.models.localizer import Localizer

    return Localizer(weights.load(run, backbone, precision), backbone.language(run, precision))


def load_answerer(run: RunContext, backbone: Backbone, weights: VisualPromptWeights, precision: str) -> Answerer:
    """Return the Answerer on the run's device, frozen and in evaluation mode."""
    from pipeline.models.answerer import Answerer

    return Answerer(weights.load(run, backbone, precision), backbone.language(run, precision))
