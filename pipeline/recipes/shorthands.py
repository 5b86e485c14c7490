"""Words for many settings at once: each becomes the `stage.key=value` that it stands for, so that identities know no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pipeline.engine.hardware import is_gpu
from pipeline.engine.stage import Stage

Precision = Literal["float32", "bfloat16", "int8", "fp8", "auto"]
OF_FEATURES = (
    "float16"  # what a ViT computes in on a GPU where its stage offers it: what it stores, and what recipes say
)


def settings_of(stages: Mapping[str, Stage], precision: Precision | None, limit: int | None, device: str) -> list[str]:
    """Return the settings that one precision for a whole recipe, and a limit on its questions, stand for.

    Args:
        precision: of every stage that has one; auto: float32 on a CPU; on a GPU what the recipes of the package have,
            bfloat16, and float16 where features are extracted. int8 and fp8: of every stage that asks the frozen language
            model; `auto` of all others.
        limit: how many questions of each split are asked.
        device: on which the recipe will run, as of `RunContext`.
    """
    settings = [] if limit is None else [f"list_questions.limit={limit}"]
    if precision is None:
        return settings
    # torch is imported to see a GPU, where that decides.
    on_gpu = precision not in ("float32", "bfloat16") and is_gpu(device)
    for name, stage in stages.items():
        field = stage.config.model_fields.get("precision")
        if field is not None:
            settings.append(f"{name}.precision={_of_stage(precision, get_args(field.annotation), on_gpu)}")
    return settings


def _of_stage(precision: Precision, offered: tuple[Any, ...], on_gpu: bool) -> str:
    if precision in offered:
        return precision
    if not on_gpu:
        return "float32"
    return OF_FEATURES if OF_FEATURES in offered else "bfloat16"
