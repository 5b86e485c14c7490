"""The grid of a sweep: ways to choose keyframes, scorers and answerers as they are typed, and what each cell sets in a recipe.

A scorer or answerer is `KIND`, as the recipe has it, or `KIND=NAME`, of these weights, files or this model of a server; behind it
may stand keys of its own, after commas: `clip=google/siglip-base-patch16-224,score_by_similarity.template=A frame. {question}`.
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
ANY = ""  # scorer of a selector that looks at no score; answerer that the recipe names
A_KEY = re.compile(r",(?=\s*\w+\.\w+\s*=)")  # so that a value may hold commas

# The sections that are of an answerer alone, as of a scorer in `SCORER_STAGES`; the first has the key for what it is made of.
ANSWERERS = {
    "sevila": ("init_answerer", "answer_questions"),
    "vlm": ("answer_with_vlm",),
    "served": ("answer_with_vlm",),
}
NAME_KEYS = {"imported": "scores", "served": "served"}  # of the others: weights


@dataclass(frozen=True)
class Grid:
    """What is swept over; scorers and answerers as the module says."""

    selectors: Sequence[str]
    ks: Sequence[int]
    scorers: Sequence[str] = (LOCALIZER,)
    answerers: Sequence[str] = (ANY,)

    def cells(self) -> list[Cell]:
        """Return every cell once, uniform frames of each number first; what looks at no score has no scorer.

        Raises:
            RecipeError: a selector that there is not.
        """
        cells = []
        for selector in dict.fromkeys((UNIFORM, *self.selectors)):
            if selector not in selector_names():
                known = selector_names()
                raise RecipeError(
                    f"no selector {selector!r}{did_you_mean(selector, known)}; there are: {', '.join(known)}"
                )
            scorers = self.scorers if "scores" in selector_named(selector).needs else (ANY,)
            cells += [Cell(selector, k, *rest) for rest in product(scorers, self.answerers) for k in self.ks]
        return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Cell:
    """One way to choose keyframes and to answer from them."""

    selector: str
    k: int
    scorer: str
    answerer: str

    def settings_over(self, selector: str) -> list[str]:
        """Return the keys that make this cell of a recipe with that selector, whose options no other one has.

        Raises:
            RecipeError: a scorer or answerer is none, or has a key of something else.
        """
        # A recipe may name a selector of its own, which goes with no other method.
        keyframes = [f"select_keyframes.method={self.selector}", f"select_keyframes.selector={TOP_K}"]
        if self.scorer:
            keyframes = ["select_keyframes.method=localizer", f"select_keyframes.selector={self.selector}"]
        keyframes += ["select_keyframes.options={}"] if self.selector != selector else []
        scorer = _scorer_settings(self.scorer) if self.scorer else []
        answerer = _answerer_settings(self.answerer) if self.answerer else []
        return ["chain.kind=forward", *keyframes, f"select_keyframes.k={self.k}", *scorer, *answerer]

    @property
    def baseline(self) -> Cell:
        """Uniform frames of the same number, answered by the same."""
        return replace(self, selector=UNIFORM, scorer=ANY)

    @property
    def name(self) -> str:
        """The cell for people: `aks by localizer, k = 8`."""
        by = f" by {self.scorer}" if self.scorer else ""
        answered = f", answered by {self.answerer}" if self.answerer else ""
        return f"{self.selector}{by}, k = {self.k}{answered}"


def _scorer_settings(text: str) -> list[str]:
    kind, settings = _parsed(text, SCORER_STAGES)
    if kind not in SCORER_STAGES:
        scorer_stage(STAGES, FrameScores, kind)  # which says what there is
    return [f"chain.scorer={kind}", *settings]


def _answerer_settings(text: str) -> list[str]:
    kind, settings = _parsed(text, ANSWERERS)
    if kind not in ANSWERERS or text == "served":
        known = "sevila, vlm, vlm=WEIGHTS, served=MODEL"
        raise RecipeError(f"no answerer {text!r}{did_you_mean(kind, ANSWERERS)}; there are: {known}")
    if kind == "sevila":
        return ["chain.answerer=sevila", *settings]
    # One of the two that the recipe may name goes where the other is meant.
    other = {"vlm": ['answer_with_vlm.served=""'], "served": ['answer_with_vlm.weights=""']}[kind]
    return ["chain.answerer=vlm", *(other if "=" in text.partition(",")[0] else []), *settings]


def _parsed(text: str, kinds: Mapping[str, Sequence[str]]) -> tuple[str, list[str]]:
    """Return the kind of a scorer or answerer, and the keys that are set for it."""
    first, *settings = A_KEY.split(text)
    kind, equals, name = first.partition("=")
    sections = kinds.get(kind, (kind,))
    for setting in settings:
        if (section := parse_setting(setting)[0]) not in sections:
            raise RecipeError(
                f"{text}: [{section}] is not of {kind} alone; its own sections: {', '.join(sections)} (--set is for all)"
            )
    if equals and not name:
        raise RecipeError(f"{text!r} names nothing after {kind}=; wanted {kind} alone, or {kind}=NAME")
    of_name = [f"{sections[0]}.{NAME_KEYS.get(kind, 'weights')}={json.dumps(name, ensure_ascii=False)}"]
    return kind, [*(of_name if equals else []), *settings]
