"""Options for several settings at once, expanded to `stage.key=value`, so that identities contain only these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pipeline.engine.hardware import is_gpu
from pipeline.engine.stage import Stage

Precision = Literal["float32", "bfloat16", "int8", "fp8", "auto"]
FEATURE_PRECISION = "float16"  # of feature extraction on a GPU, as in the package's recipes; equals the stored type


def settings_of(stages: Mapping[str, Stage], precision: Precision | None, limit: int | None, device: str) -> list[str]:
    """Expand one precision for a whole recipe, and a limit on its questions, to settings.

    Args:
        precision: for every stage that has one. auto: float32 on a CPU; on a GPU as in the package's recipes, bfloat16, and
            float16 for feature extraction. int8 and fp8: for stages that use the frozen language model, auto for others.
        limit: maximum number of questions per split.
        device: of the run, as in `RunContext`.
    """
    settings = [] if limit is None else [f"list_questions.limit={limit}"]
    if precision is None:
        return settings
    on_gpu = precision not in ("float32", "bfloat16") and is_gpu(device)  # in this order: is_gpu may import torch
    for name, stage in stages.items():
        field = stage.config.model_fields.get("precision")
        if field is not None:
            settings.append(f"{name}.precision={_stage_precision(precision, get_args(field.annotation), on_gpu)}")
    return settings


def _stage_precision(precision: Precision, supported: tuple[Any, ...], on_gpu: bool) -> str:
    if precision in supported:
        return precision
    if not on_gpu:
        return "float32"
    return FEATURE_PRECISION if FEATURE_PRECISION in supported else "bfloat16"
