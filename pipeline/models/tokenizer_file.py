"""Checks of a `tokenizer.json` before the library reads it: nothing in it may make a short text any number of tokens."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cache.errors import CheckpointError
from pipeline.checkpoint_files import read_model_json

MOST_STEPS = 8  # of each kind; Flan-T5's files have two or three
MOST_TOKENIZER_BYTES = 64 << 20  # SigLIP 2's has half of it
MOST_REPLACED = 16  # characters that a text is replaced by
MOST_EXPANSION_BYTES = 128  # of one character by the tables of SentencePiece; NFKC's longest takes 33
NORMALIZERS = {
    "Precompiled",
    "Strip",
    "Replace",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Lowercase",
    "StripAccents",
    "Prepend",
}
PRE_TOKENIZERS = {"Metaspace", "WhitespaceSplit", "Whitespace", "ByteLevel"}
RUN_OF_SPACE = re.compile(r"\^?( |▁|\\s|\\n|\\t|\\r)(\+|\{\d,\d?\})?\$?")  # none takes long, whatever the text


def read_tokenizer_of_other_model(path: Path) -> Tokenizer:
    """Return the tokenizer of a model that is no Flan-T5, without padding and truncation of its own; raises `CheckpointError`."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found; the fast tokenizer of the weights was wanted, which saves it as such"
        )
    content = read_model_json(path, MOST_TOKENIZER_BYTES)
    for step in _steps(content.get("normalizer"), "normalizers"):
        if isinstance(step, dict) and len(str(step.get("content", ""))) > MOST_REPLACED:
            raise CheckpointError(
                f"{path}: it replaces text by {step['content']!r}, wanted {MOST_REPLACED} characters at most"
            )
    return tokenizer_of(path, content)


def tokenizer_of(path: Path, content: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of what was looked at, which the file may say in two ways; raises `CheckpointError`."""
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path}: not a tokenizer file: {error}") from error
    tokenizer.no_padding()  # a saved file may carry its last user's settings
    tokenizer.no_truncation()
    return tokenizer


def tokenizer_problem(content: dict[str, Any]) -> str:
    """Return what of a file no tokenizer of a language model here has; empty if nothing."""
    normalizers = list(_steps(content.get("normalizer"), "normalizers"))
    splits = list(_steps(content.get("pre_tokenizer"), "pretokenizers"))
    for steps, known in ((normalizers, NORMALIZERS), (splits, PRE_TOKENIZERS)):
        if len(steps) > MOST_STEPS:
            return f"it has {len(steps)} normalizers or pre-tokenizers, wanted {MOST_STEPS} at most"
        for step in steps:
            kind = step.get("type") if isinstance(step, dict) else step
            if not isinstance(kind, str) or kind not in known:
                return f"it has a step of type {kind!r}, wanted one of {', '.join(sorted(known))}"
            if kind == "Prepend" and len(str(step.get("prepend", ""))) > 1:
                return f"it puts {step['prepend']!r} before texts, wanted one character"
            if kind == "Replace" and not _shortens(step):
                return f"it replaces {step.get('pattern')!r} by {step.get('content')!r}, wanted plain text or spaces, by no more"
    tables = [step.get("precompiled_charsmap") for step in normalizers if step["type"] == "Precompiled"]
    if len(tables) > 1 or not all(map(_is_table, tables)):
        return "its precompiled_charsmap is not one table of short replacements"
    return _ending_problem(content.get("post_processor"))


def _steps(step: Any, inner: str) -> Iterator[Any]:
    waiting = [] if step is None else [step]
    while waiting:
        step = waiting.pop()
        if isinstance(step, dict) and step.get("type") == "Sequence" and isinstance(step.get(inner), list):
            waiting += step[inner]
        else:
            yield step


def _shortens(step: dict[str, Any]) -> bool:
    pattern, content = step.get("pattern"), step.get("content")
    if not isinstance(pattern, dict) or len(pattern) != 1 or not isinstance(content, str):
        return False
    ((kind, text),) = pattern.items()
    if not isinstance(text, str):
        return False
    return len(content) <= len(text) if kind == "String" else len(content) <= 1 and bool(RUN_OF_SPACE.fullmatch(text))


def _is_table(charsmap: Any) -> bool:
    """Whether it is as SentencePiece writes it: the size of a trie, the trie, and what characters become, each ended by a NUL."""
    try:
        table = base64.b64decode(charsmap, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return False
    begin = 4 + int.from_bytes(table[:4], "little")
    return begin <= len(table) and max(map(len, table[begin:].split(b"\0"))) <= MOST_EXPANSION_BYTES


def _ending_problem(ending: Any) -> str:
    if ending is None or (isinstance(ending, dict) and ending.get("type") == "ByteLevel"):
        return ""
    try:
        pieces = [*ending["single"], *ending["pair"]]
        ids = [id for token in ending["special_tokens"].values() for id in token["ids"]]
        is_short = ending["type"] == "TemplateProcessing" and max(len(pieces), len(ids)) <= MOST_STEPS
    except (KeyError, TypeError, AttributeError):
        is_short = False
    return "" if is_short else f"its post_processor is no TemplateProcessing of at most {MOST_STEPS} pieces and tokens"
