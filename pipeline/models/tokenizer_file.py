"""Checks of a `tokenizer.json` before the library reads it: no setting may expand a short text to very many tokens."""

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

MAX_STEPS = 8  # of each kind; Flan-T5's files have two or three
MAX_TOKENIZER_BYTES = 64 << 20  # twice the size of SigLIP 2's
MAX_REPLACEMENT = 16  # characters
MAX_EXPANSION_BYTES = 128  # of one character by SentencePiece's table; NFKC's longest takes 33
UNICODE_FORMS = {"NFC", "NFD", "NFKC", "NFKD"}
NORMALIZERS = UNICODE_FORMS | {"Precompiled", "Strip", "Replace", "Nmt", "Lowercase", "StripAccents", "Prepend"}
PRE_TOKENIZERS = {"Metaspace", "WhitespaceSplit", "Whitespace", "ByteLevel"}
RUN_OF_SPACE = re.compile(r"\^?( |▁|\\s|\\n|\\t|\\r)(\+|\{\d,\d?\})?\$?")  # patterns that match any text in linear time


def read_tokenizer_of_other_model(path: Path) -> Tokenizer:
    """Return the tokenizer of a model other than Flan-T5, without padding and truncation; raise `CheckpointError` on failure."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found; the fast tokenizer of the weights is required, saved under this name"
        )
    content = read_model_json(path, MAX_TOKENIZER_BYTES)
    for step in _steps(content.get("normalizer"), "normalizers"):
        if isinstance(step, dict) and len(str(step.get("content", ""))) > MAX_REPLACEMENT:
            raise CheckpointError(
                f"{path}: it replaces text by {step['content']!r}; expected at most {MAX_REPLACEMENT} characters"
            )
    return tokenizer_of(path, content)


def tokenizer_of(path: Path, content: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of the checked content of a file; raise `CheckpointError` if it is invalid.

    The file itself is not read again: with duplicate keys the library might read other values than those checked.
    """
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path}: not a tokenizer file: {error}") from error
    tokenizer.no_padding()  # saved files may contain these settings
    tokenizer.no_truncation()
    return tokenizer


def tokenizer_problem(content: dict[str, Any]) -> str:
    """Return why a file cannot be a supported language model's tokenizer; empty if it can."""
    normalizers = list(_steps(content.get("normalizer"), "normalizers"))
    splits = list(_steps(content.get("pre_tokenizer"), "pretokenizers"))
    for steps, known in ((normalizers, NORMALIZERS), (splits, PRE_TOKENIZERS)):
        if len(steps) > MAX_STEPS:
            return f"it has {len(steps)} normalizers or pre-tokenizers; expected at most {MAX_STEPS}"
        for step in steps:
            kind = step.get("type") if isinstance(step, dict) else step
            if not isinstance(kind, str) or kind not in known:
                return f"it has a step of type {kind!r}; expected one of {', '.join(sorted(known))}"
            if kind == "Prepend" and len(str(step.get("prepend", ""))) > 1:
                return f"it puts {step['prepend']!r} before texts; expected one character"
            if kind == "Replace" and not _shortens(step):
                return (
                    f"it replaces {step.get('pattern')!r} by {step.get('content')!r}; expected plain text or spaces, and a "
                    "replacement that is not longer"
                )
    tables = [step.get("precompiled_charsmap") for step in normalizers if step["type"] == "Precompiled"]
    if len(tables) > 1 or not all(map(_is_table, tables)):
        return "its precompiled_charsmap is not one table of short replacements"
    return _post_processor_problem(content.get("post_processor"))


def _steps(step: Any, inner: str) -> Iterator[Any]:
    """Yield the steps of nested sequences; `inner` is the key of their lists."""
    stack = [] if step is None else [step]
    while stack:
        step = stack.pop()
        if isinstance(step, dict) and step.get("type") == "Sequence" and isinstance(step.get(inner), list):
            stack += step[inner]
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
    """Return whether a table has SentencePiece's layout: the size of a trie, the trie, and NUL-terminated replacements."""
    try:
        table = base64.b64decode(charsmap, validate=True)
    except (TypeError, ValueError, binascii.Error):
        return False
    start = 4 + int.from_bytes(table[:4], "little")
    return start <= len(table) and max(map(len, table[start:].split(b"\0"))) <= MAX_EXPANSION_BYTES


def _post_processor_problem(step: Any) -> str:
    if step is None or (isinstance(step, dict) and step.get("type") == "ByteLevel"):
        return ""
    try:
        pieces = [*step["single"], *step["pair"]]
        ids = [id for token in step["special_tokens"].values() for id in token["ids"]]
        is_short = step["type"] == "TemplateProcessing" and max(len(pieces), len(ids)) <= MAX_STEPS
    except (KeyError, TypeError, AttributeError):
        is_short = False
    return "" if is_short else f"its post_processor is no TemplateProcessing of at most {MAX_STEPS} pieces and tokens"
