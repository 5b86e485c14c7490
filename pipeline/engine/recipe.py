"""Recipes: TOML files with a section per stage, which sets the stage's config, validated strictly.

The section `[chain]` belongs to no stage: it selects the chain, and the settings to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from cache.errors import RecipeError, did_you_mean
from pipeline.datasets.registry import adapter_named
from pipeline.engine.stage import Config, Stage
from pipeline.engine.toml_file import read_named, toml_files, typed_value
from pipeline.selection.registry import selector_named

RECIPES = Path(__file__).parents[1] / "recipes"

# Stages that keep their seed when a run sets another: frames are sampled once, and intervals use the same resamples.
KEEP_THEIR_SEED = ("sample_frames", "evaluate", "evaluate_moments")

# Selectors that choose keyframes by the scores of a Localizer, with the names of their results.
LOCALIZERS = {"untrained": "untrained Localizer", "pretrained": "pre-trained Localizer", "refined": "refined Localizer"}

# Selectors that the chain trains on answers alone, with the names of their results.
TRAINED_SELECTORS = {"atp": "ATP", "differentiable_top_k": "differentiable top-k"}
BY_SCORES = LOCALIZERS | TRAINED_SELECTORS


class Chain(Config):
    """The section `[chain]` of a recipe, which selects the chain. Not part of any artifact's identity."""

    kind: Literal["forward", "full"] = Field(
        "forward",
        description="forward: inference; full: also the reverse chain and both trainings, with every setting evaluated",
    )
    backbone: str = Field(
        "imported",
        description="the frozen BLIP-2: imported, given weights; trained, from scratch by a stage; or the name of another "
        "package's stage that produces it",
    )
    scorer: str = Field(
        "localizer",
        description="scorer of frames (forward): localizer; imported, files of scores; clip, CLIP or SigLIP; itm, BLIP-2's "
        "image-text matching (docs/scorers.md); or the name of another package's stage",
    )
    answerer: Literal["sevila", "vlm"] = Field(
        "sevila",
        description="model that answers (forward): SeViLA's Answerer; or another video-language model, set in [answer_with_vlm]",
    )
    training_split: str = Field(
        "train", description="split of the recipe's data set that Localizer and Answerer are trained on"
    )
    pretraining_dataset: str = Field(
        "",
        description="data set with moments to pre-train the Localizer on; empty: init_localizer's weights are pre-trained",
    )
    pretraining_split: str = Field("", description="split of the data set for pre-training")
    iterations: int = Field(
        1,
        ge=1,
        description="rounds of self-refinement: label with the newest Answerer, refine the newest Localizer, rescore, tune on",
    )
    selectors: tuple[str, ...] = Field(
        ("uniform", "pretrained", "refined"),
        strict=False,
        description="keyframes to evaluate, zero-shot and fine-tuned: chosen by the untrained, pretrained or refined "
        "Localizer; by a selector trained on answers: atp, differentiable_top_k; or without scores: uniform, "
        "random, oracle (the true moments)",
    )

    also: tuple[str, ...] = Field(
        (), strict=False, description="other packages' stages that the forward chain runs at its end (docs/extending)"
    )

    @field_validator("also")
    @classmethod
    def _forward_only(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if names and info.data.get("kind") == "full":
            raise ValueError("a full chain has several artifacts of a stage; expected kind = 'forward'")
        return names

    @field_validator("pretraining_dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        if name:
            adapter_named(name)
        return name

    @field_validator("selectors")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in BY_SCORES and "scores" in selector_named(name, also=BY_SCORES).needs:
                raise ValueError(
                    f"{name} chooses by scores; [select_keyframes] selector = {name!r} says how Localizers choose"
                )
        if not names or len(set(names)) < len(names):
            raise ValueError("list at least one selector, and each only once")
        return names


CHAIN = "chain"


@dataclass(frozen=True)
class Recipe:
    """A validated recipe: the config of every stage, with defaults for stages without a section, and its `chain`."""

    name: str
    description: str
    configs: Mapping[str, Config]
    chain: Chain

    def config(self, stage: Stage, **changes: Any) -> Any:
        """Return the config of a stage; `changes` are keys that the chain overrides, validated likewise."""
        cfg = self.config_of(stage.name)
        if not changes:
            return cfg
        try:
            return stage.config(**{**dict(cfg), **changes})
        except ValidationError as error:
            problems = "; ".join(_explain(problem, stage.name, stage.config) for problem in error.errors())
            raise RecipeError(f"the {self.chain.kind} chain of recipe {self.name!r} sets {problems}") from error

    def config_of(self, name: str) -> Any:
        """Return the config of the stage of this name; raise `RecipeError` with the nearest name if there is none."""
        refuse_unknown_stage(name, self.configs)
        return self.configs[name]


NOT_LOADED: dict[str, str] = {}  # reasons by stage name, for stages of other packages that failed to load


def refuse_unknown_stage(name: str, known: Iterable[str]) -> None:
    """Raise `RecipeError` with the nearest name if there is no stage of this name."""
    if name not in known:
        if name in NOT_LOADED:
            raise RecipeError(f"{name!r} is not a stage: {NOT_LOADED[name]}")
        raise RecipeError(f"{name!r} is not a stage{did_you_mean(name, known)}; stages: {', '.join(known)}")


def available() -> dict[str, Path]:
    """Return the recipes of this package, by name."""
    return toml_files(RECIPES)


def load(name: str, stages: Mapping[str, Stage], settings: Iterable[str] = (), seed: int | None = None) -> Recipe:
    """Load a recipe by name, or by the path of a `.toml` file, and apply `stage.key=value` settings on top.

    Args:
        stages: the stages that a recipe may have sections for, by name.
        seed: set in every stage that has one, except `KEEP_THEIR_SEED`; `settings` take precedence.

    Raises:
        RecipeError: names the file, the invalid section or key, and the nearest valid one.
    """
    path, description, sections = _read(name, section_configs(stages))
    changes = [(section, "seed", seed, f"seed {seed}") for section in (() if seed is None else _seeded(stages))]
    changes += [(*parse_setting(setting), f"--set {setting}") for setting in settings]
    origins: dict[tuple[str, str], str] = {}  # by (section, key), the option that set it last; missing: the file
    for section, key, value, origin in changes:
        sections.setdefault(section, {})[key] = value
        origins[section, key] = origins[section, ""] = origin
    configs = _validate(sections, str(path), origins, section_configs(stages))
    chain = configs.pop(CHAIN)
    assert isinstance(chain, Chain)
    return Recipe(path.stem, description, configs, chain)


def _read(name: str, known: Iterable[str]) -> tuple[Path, str, dict[str, dict[str, Any]]]:
    """Return path, description and sections of a recipe; raises `RecipeError`."""
    path, content = read_named("recipe", name, available())
    description = content.pop("description", "")
    if not isinstance(description, str):
        raise RecipeError(f"{path}: description is {description!r}, expected text")
    return path, description, {name: _section(values, name, str(path), known) for name, values in content.items()}


def section_configs(stages: Mapping[str, Stage]) -> dict[str, type[Config]]:
    """Return the config class of every section a recipe may have: `[chain]`, and a section per stage."""
    return {CHAIN: Chain} | {name: stage.config for name, stage in stages.items()}


def _seeded(stages: Mapping[str, Stage]) -> list[str]:
    return [
        name for name, stage in stages.items() if "seed" in stage.config.model_fields and name not in KEEP_THEIR_SEED
    ]


def _section(values: Any, section: str, where: str, known: Iterable[str]) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: {section!r} stands outside any [section]{did_you_mean(section, known)}")
    return dict(values)


def parse_setting(setting: str) -> tuple[str, str, Any]:
    """Return stage, key and value of `stage.key=value`; raises `RecipeError`."""
    name, separator, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not separator or not dot or not key:
        raise RecipeError(f"--set {setting}: expected stage.key=value, as in sample_frames.frames=16")
    return section, key, typed_value(text)


def _validate(
    sections: Mapping[str, Mapping[str, Any]],
    path: str,
    origins: Mapping[tuple[str, str], str],
    known: Mapping[str, type[Config]],
) -> dict[str, Config]:
    """Return the config of every section; raise `RecipeError` with the origin of an invalid value, by default `path`."""
    for section in sections:
        if section not in known:
            origin = origins.get((section, ""), path)
            raise RecipeError(
                f"{origin}: [{section}] is not a stage{did_you_mean(section, known)}; sections: {', '.join(known)}"
            )
    configs = {}
    for name, config in known.items():
        try:
            configs[name] = config(**sections.get(name, {}))
        except ValidationError as error:
            problems: dict[str, list[str]] = {}
            for problem in error.errors():
                origin = origins.get((name, str(problem["loc"][0]) if problem["loc"] else ""), path)
                problems.setdefault(origin, []).append(_explain(problem, name, config))
            messages = (f"{origin}: {'; '.join(explanations)}" for origin, explanations in problems.items())
            raise RecipeError("; ".join(messages)) from error
    return configs


def _explain(problem: Any, section: str, config: type[Config]) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "the section as a whole"
    fields = config.model_fields
    if problem["type"] == "extra_forbidden":
        return f"[{section}] has no key {key!r}{did_you_mean(key, fields)}; keys: {', '.join(fields) or 'none'}"
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "tuple_type":  # TOML has lists only
        reason = 'expected a list, such as ["a", "b"]'
    return f"[{section}] {key} = {problem['input']!r}: {reason[0].lower() + reason[1:]}"
