"""The declaration of a kind of language model and the registry of kinds, by `text_config.model_type` of a BLIP-2's config.json.

Each file of languages/ declares one; other packages add theirs by the entry point group `sevila.languages`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pipeline.models.languages
from pipeline.models.config_parts import ConfigPart
from pipeline.registry import Registry, in_folder

if TYPE_CHECKING:
    from pipeline.models.language import Language
    from pipeline.models.verbalizer import Verbalizer


def _decoder_verbalizer(path: Path, config: Any) -> Verbalizer:
    from pipeline.models.decoder_verbalizer import DecoderVerbalizer

    return DecoderVerbalizer(path, config)


def _decoder_only_language(model: Any, verbalizer: Verbalizer) -> Language:
    from pipeline.models.decoder_only import DecoderOnlyLanguage

    return DecoderOnlyLanguage(model, verbalizer)


@dataclass(frozen=True)
class LanguageKind:
    """A kind of language model, decoder-only by default.

    Attributes:
        name: `model_type` of its configurations.
        title: its name in messages.
        config, model: names of transformers' classes of its configuration and of the model, whose output layer is `lm_head`.
        sizes: the keys that are read from `text_config` in foreign files, with their bounds.
        copies: parameters that equal another one, which files may have under either name or both; `lm_head.weight` only if the
            configuration ties it.
        required: values that keys of `text_config` must have.
        settings: values set in the configuration regardless of the file.
        exported: values set in `text_config` of exported folders.
        tokenizer: (path of tokenizer.json, configuration) -> verbalizer.
        language: (model, verbalizer) -> the model of Localizer and Answerer.
    """

    name: str
    title: str
    config: str
    model: str
    sizes: type[ConfigPart]
    copies: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    exported: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Callable[[Path, Any], Verbalizer] = _decoder_verbalizer
    language: Callable[[Any, Verbalizer], Language] = _decoder_only_language

    def copies_in(self, config: Any) -> dict[str, str]:
        """Return the `copies` in a model of this configuration."""
        is_tied = getattr(config, "tie_word_embeddings", False)
        return {copy: original for copy, original in self.copies.items() if copy != "lm_head.weight" or is_tied}


def _declared(module: ModuleType) -> dict[str, LanguageKind]:
    return {value.name: value for value in vars(module).values() if isinstance(value, LanguageKind)}


def _problem(value: Any, name: str) -> str:
    if isinstance(value, LanguageKind) and value.name == name:
        return ""
    actual = f"LanguageKind {value.name!r}" if isinstance(value, LanguageKind) else type(value).__name__
    return f"a {actual}; expected a LanguageKind of that name"


LANGUAGES = Registry(
    "kind of language model", "sevila.languages", partial(in_folder, pipeline.models.languages, _declared), _problem
)
