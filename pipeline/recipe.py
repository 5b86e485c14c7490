"""Recipes: TOML files whose sections are named after stages and set those stages' configs, validated strictly."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cache.errors import RecipeError
from pipeline.stage import STAGES, Config, Stage

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """A validated recipe: the config of every stage, those of unmentioned stages at their defaults."""

    name: str
    description: str
    configs: Mapping[str, Config]

    def config(self, stage: Stage) -> Any:
        """Return the config of a stage."""
        return self.config_of(stage.name)

    def config_of(self, name: str) -> Any:
        """Return the config of the stage of this name; raises `RecipeError` with the nearest one if there is none."""
        if name not in self.configs:
            raise RecipeError(
                f"{name!r} is not a stage{_nearest(name, self.configs)}; stages: {', '.join(self.configs)}"
            )
        return self.configs[name]


def available() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def load(name: str, settings: Iterable[str] = ()) -> Recipe:
    """Load a recipe by name, or by the path of a `.toml` file, and apply `stage.key=value` settings on top.

    Raises:
        RecipeError: names the file, the section or key at fault, and the nearest valid one.
    """
    path = available().get(name, Path(name))
    if not path.is_file():
        raise RecipeError(
            f"no recipe {name!r}: neither a file nor one of {', '.join(available())}{_nearest(name, available())}"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable as TOML: {error}") from error
    description = content.pop("description", "")
    if not isinstance(description, str):
        raise RecipeError(f"{path}: description is {description!r}, wanted text")
    sections = {section: _section(values, section, str(path)) for section, values in content.items()}
    configs = _validate(sections, str(path))
    for setting in settings:
        section, key, value = _parse_setting(setting)
        sections.setdefault(section, {})[key] = value
        configs = _validate(sections, f"--set {setting}")
    return Recipe(path.stem, description, configs)


def _section(values: Any, section: str, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: {section!r} stands outside any [section]{_nearest(section, STAGES)}")
    return dict(values)


def _parse_setting(setting: str) -> tuple[str, str, Any]:
    name, separator, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not separator or not dot or not key:
        raise RecipeError(f"--set {setting}: wanted stage.key=value, as in sample_frames.frames=16")
    try:
        return section, key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, text  # a word needs no quotes on the command line


def _validate(sections: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Config]:
    for section in sections:
        if section not in STAGES:
            raise RecipeError(
                f"{where}: [{section}] is not a stage{_nearest(section, STAGES)}; stages: {', '.join(STAGES)}"
            )
    configs = {}
    for name, stage in STAGES.items():
        try:
            configs[name] = stage.config(**sections.get(name, {}))
        except ValidationError as error:
            problems = "; ".join(_explain(problem, name, stage) for problem in error.errors())
            raise RecipeError(f"{where}: {problems}") from error
    return configs


def _explain(problem: Any, section: str, stage: Stage) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "the section as a whole"
    fields = stage.config.model_fields
    if problem["type"] == "extra_forbidden":
        return f"[{section}] has no key {key!r}{_nearest(key, fields)}; keys: {', '.join(fields) or 'none'}"
    reason = problem["msg"].removeprefix("Value error, ")
    return f"[{section}] {key} = {problem['input']!r}: {reason[0].lower() + reason[1:]}"


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
