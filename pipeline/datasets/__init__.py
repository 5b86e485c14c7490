"""The question records, and one module per data set, which is named nowhere else: its files as downloaded -> Annotations."""

from cache.errors import RecipeError, did_you_mean
from pipeline.datasets import (
    egoschema,
    how2qa,
    longvideobench,
    mlvu,
    nextqa,
    plain,
    qvhighlights,
    sevila_json,
    shapes,
    star,
    timed_text,
    tvqa,
    videomme,
    vlep,
)
from pipeline.datasets.adapter import About, Adapter, Headline, files_of, headline_of

__all__ = ["ADAPTERS", "About", "Adapter", "Headline", "adapter_named", "files_of", "headline_of"]

ADAPTERS: dict[str, Adapter] = {
    "nextqa": nextqa,
    "star": star,
    "how2qa": how2qa,
    "tvqa": tvqa,
    "vlep": vlep,
    "qvhighlights": qvhighlights,
    "longvideobench": longvideobench,
    "videomme": videomme,
    "mlvu": mlvu,
    "egoschema": egoschema,
    "sevila_json": sevila_json,
    "shapes": shapes,
    "plain": plain,
    "timed_text": timed_text,
}


def adapter_named(name: str) -> Adapter:
    """The adapter called `name`. Raises RecipeError that names the nearest one there is."""
    if name in ADAPTERS:
        return ADAPTERS[name]
    known = ", ".join(sorted(ADAPTERS))
    raise RecipeError(f"no data set is called {name!r}{did_you_mean(name, ADAPTERS)}; there are: {known}")
