"""What a finished chain leaves, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.engine.stage import Artifact
from pipeline.recipes.results import Results


def summary_content(
    artifacts: Sequence[Artifact], settings: Sequence[str], results: Artifact | Results
) -> dict[str, Any]:
    """Return every step with its artifact, and the results, as JSON values.

    Args:
        artifacts: of the steps, in their order.
        settings: which of the chain's steps each of them is.
        results: what the chain returned.
    """
    steps = [
        {"stage": artifact.record.stage, "which": which, "id": artifact.id, "failed": dict(artifact.record.dropped)}
        for artifact, which in zip(artifacts, settings, strict=True)
    ]
    return {"steps": steps, "results": _results(results)}


def _results(results: Artifact | Results) -> Any:
    if not isinstance(results, Results):
        return json.loads(results.checked_file("metrics.json").read_text())
    return [
        {
            "keyframes": setting.row,
            "answered": setting.column,
            "accuracy_percent": results.values.get((setting.row, setting.column)),
            "metrics": setting.metrics.id,
        }
        for setting in results.settings
    ]
