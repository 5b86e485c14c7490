"""What a kind of language model says of itself, and which kinds there are: by `text_config.model_type` of a BLIP-2's config.json.

One file of languages/ declares one, and other people's are found by the entry points `sevila.languages`.
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


def _decoders_tokenizer(path: Path, config: Any) -> Verbalizer:
    from pipeline.models.decoder_verbalizer import DecoderVerbalizer

    return DecoderVerbalizer(path, config)


def _decoder_only(model: Any, verbalizer: Verbalizer) -> Language:
    from pipeline.models.decoder_only import DecoderOnlyLanguage

    return DecoderOnlyLanguage(model, verbalizer)


@dataclass(frozen=True)
class LanguageKind:
    """A kind of language model; decoder-only unless it says otherwise.

    Attributes:
        name: `model_type` of its configurations.
        title: what people call it.
        config, model: names of transformers' classes of its configuration and of the model, whose output layer is `lm_head`.
        sizes: the keys of `text_config` that are taken from a foreign file, with their bounds.
        copies: parameters that equal another one, which files may hold under either name or both; `lm_head.weight` where the
            configuration ties it.
        required: values that keys of `text_config` must have.
        settings: of the configuration, whatever a file says.
        exported: of `text_config` in folders that are written for others.
        tokenizer: (tokenizer.json, configuration) -> what makes ids of texts.
        language: (model, what makes ids of texts) -> what Localizer and Answerer ask.
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
    tokenizer: Callable[[Path, Any], Verbalizer] = _decoders_tokenizer
    language: Callable[[Any, Verbalizer], Language] = _decoder_only

    def copies_in(self, config: Any) -> dict[str, str]:
        """Return the parameters that equal another one in a model of this configuration."""
        is_tied = getattr(config, "tie_word_embeddings", False)
        return {copy: original for copy, original in self.copies.items() if copy != "lm_head.weight" or is_tied}


def _declared(module: ModuleType) -> dict[str, LanguageKind]:
    return {value.name: value for value in vars(module).values() if isinstance(value, LanguageKind)}


def _problem(value: Any, name: str) -> str:
    if isinstance(value, LanguageKind) and value.name == name:
        return ""
    what = f"LanguageKind {value.name!r}" if isinstance(value, LanguageKind) else type(value).__name__
    return f"a {what}; a LanguageKind of that name was wanted"


LANGUAGES = Registry(
    "kind of language model", "sevila.languages", partial(in_folder, pipeline.models.languages, _declared), _problem
)
