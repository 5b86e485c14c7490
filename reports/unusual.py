"""Which config keys of an artifact are worth showing: those that are not at their stage's defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from cache.record import Record
from pipeline.engine.stage import Config
from stages.all import STAGES


def unusual(record: Record) -> Mapping[str, Any]:
    """Return the config keys of an artifact that are not at their stage's defaults; all of them for a stage that is no more."""
    stage = STAGES.get(record.stage)
    defaults = _defaults(stage.config) if stage is not None else {}
    return {key: value for key, value in record.config.items() if key not in defaults or value != defaults[key]}


@cache
def _defaults(config: type[Config]) -> dict[str, Any]:
    fields = {key: field for key, field in config.model_fields.items() if not field.is_required()}
    defaults = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    plain: dict[str, Any] = json.loads(json.dumps(defaults))  # tuples are lists in a record
    return plain
