"""The embedded default: the Shapes world, written to a folder. Its backbone is trained by the chain, from the same seed."""

from __future__ import annotations

from pathlib import Path

from pipeline.shapes.files import write_shapes


def demo_places(folder: Path, seed: int = 0) -> dict[str, list[str]]:
    """Return where the demo's annotations, videos and narrations lie, as `Sources` takes them; write them if need be.

    The narrations are a data set of their own, `timed_text`: labels for the Localizer's weakly supervised pre-training.
    """
    if not (folder / "complete").exists():
        write_shapes(folder, seed)
        (folder / "complete").touch()
    videos = folder / "videos"
    return {
        "annotations": [f"shapes={folder}", f"timed_text={folder / 'timed_text'}"],
        "videos": [f"shapes={videos}", f"timed_text={videos}"],
        "weights": [],
    }
