"""The grid of a sweep: parse selectors, scorers and answerers, and return the settings of each cell.

A scorer or answerer is `KIND`, as configured in the recipe, or `KIND=NAME`, with the name of weights, files or a served model.
Config keys may follow after commas: `clip=google/siglip-base-patch16-224,score_by_similarity.template=A frame. {question}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from cache.errors import RecipeError, did_you_mean
from pipeline.engine.recipe import parse_setting
from pipeline.recipes.requirements import LOCALIZER, SCORER_STAGES
from pipeline.selection.registry import selector_named, selector_names
from stages.all import STAGES
from stages.extensions import scorer_stage
from stages.score_frames import FrameScores
from stages.select_keyframes import TOP_K

UNIFORM = "uniform"
ANY = ""  # the scorer of a selector that needs no scores; the answerer of the recipe
KEY_SEPARATOR = re.compile(r",(?=\s*\w+\.\w+\s*=)")  # values may contain other commas

# The config sections of an answerer, like those of a scorer in `SCORER_STAGES`; the first has the key of its weights or model.
ANSWERERS = {
    "sevila": ("init_answerer", "answer_questions"),
    "vlm": ("answer_with_vlm",),
    "served": ("answer_with_vlm",),
}
NAME_KEYS = {"imported": "scores", "served": "served"}  # config key of NAME; `weights` for other kinds


@dataclass(frozen=True)
class Grid:
    """The values of a sweep; scorers and answerers as in the module's docstring."""

    selectors: Sequence[str]
    ks: Sequence[int]
    scorers: Sequence[str] = (LOCALIZER,)
    answerers: Sequence[str] = (ANY,)

    def cells(self) -> list[Cell]:
        """Return the distinct cells, those of uniform frames first; a selector that needs no scores has no scorer.

        Raises:
            RecipeError: A selector is unknown.
        """
        cells = []
        for selector in dict.fromkeys((UNIFORM, *self.selectors)):
            if selector not in selector_names():
                known = selector_names()
                raise RecipeError(
                    f"no selector {selector!r}{did_you_mean(selector, known)}; there are: {', '.join(known)}"
                )
            scorers = self.scorers if "scores" in selector_named(selector).needs else (ANY,)
            pairs = product(scorers, self.answerers)
            cells += [Cell(selector, k, scorer, answerer) for scorer, answerer in pairs for k in self.ks]
        return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Cell:
    """One combination of selector, number of keyframes, scorer and answerer."""

    selector: str
    k: int
    scorer: str
    answerer: str

    def settings_over(self, selector: str) -> list[str]:
        """Return the settings of this cell for a recipe with `selector`, whose options are reset if the cell has another.

        Raises:
            RecipeError: A scorer or answerer is unknown, or has a key of another section.
        """
        # Reset the recipe's selector, which may not be valid with another method.
        keyframes = [f"select_keyframes.method={self.selector}", f"select_keyframes.selector={TOP_K}"]
        if self.scorer:
            keyframes = ["select_keyframes.method=localizer", f"select_keyframes.selector={self.selector}"]
        keyframes += ["select_keyframes.options={}"] if self.selector != selector else []
        scorer = _scorer_settings(self.scorer) if self.scorer else []
        answerer = _answerer_settings(self.answerer) if self.answerer else []
        return ["chain.kind=forward", *keyframes, f"select_keyframes.k={self.k}", *scorer, *answerer]

    @property
    def baseline(self) -> Cell:
        """The cell of uniform frames with the same number of keyframes and the same answerer."""
        return replace(self, selector=UNIFORM, scorer=ANY)

    @property
    def name(self) -> str:
        """The display name of the cell: `aks by localizer, k = 8`."""
        by = f" by {self.scorer}" if self.scorer else ""
        answered = f", answered by {self.answerer}" if self.answerer else ""
        return f"{self.selector}{by}, k = {self.k}{answered}"


def _scorer_settings(text: str) -> list[str]:
    kind, settings = _parsed(text, SCORER_STAGES)
    if kind not in SCORER_STAGES:
        scorer_stage(STAGES, FrameScores, kind)  # raises an error with the known scorers
    return [f"chain.scorer={kind}", *settings]


def _answerer_settings(text: str) -> list[str]:
    kind, settings = _parsed(text, ANSWERERS)
    if kind not in ANSWERERS or text == "served":
        known = "sevila, vlm, vlm=WEIGHTS, served=MODEL"
        raise RecipeError(f"no answerer {text!r}{did_you_mean(kind, ANSWERERS)}; there are: {known}")
    if kind == "sevila":
        return ["chain.answerer=sevila", *settings]
    # A recipe may name either weights or a served model; a cell that names one resets the other.
    other = {"vlm": ['answer_with_vlm.served=""'], "served": ['answer_with_vlm.weights=""']}[kind]
    return ["chain.answerer=vlm", *(other if "=" in text.partition(",")[0] else []), *settings]


def _parsed(text: str, kinds: Mapping[str, Sequence[str]]) -> tuple[str, list[str]]:
    """Return the kind of a scorer or answerer, and its settings."""
    first, *settings = KEY_SEPARATOR.split(text)
    kind, equals, name = first.partition("=")
    sections = kinds.get(kind, (kind,))
    for setting in settings:
        if (section := parse_setting(setting)[0]) not in sections:
            raise RecipeError(
                f"{text}: [{section}] is no section of {kind}; expected one of {', '.join(sections)} (--set applies to all cells)"
            )
    if equals and not name:
        raise RecipeError(f"{text!r} has no name after {kind}=; expected {kind} or {kind}=NAME")
    name_setting = f"{sections[0]}.{NAME_KEYS.get(kind, 'weights')}={json.dumps(name, ensure_ascii=False)}"
    return kind, [*([name_setting] if equals else []), *settings]
