from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import CheckpointError
from pipeline.models.tokenizer_file import tokenizer_problem
from pipeline.models.verbalizer import SPACE, Verbalizer
from tests.reference import PARITY

REFERENCE = Verbalizer(PARITY / "tokenizer.json")


def edited(source: Path, folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a tokenizer file with its JSON changed."""
    content = json.loads(source.read_text())
    edit(content)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content))
    return path


def without(*tokens: str) -> Callable[[dict[str, Any]], None]:
    """Return an edit that renames tokens, so that their words are split into several tokens."""

    def edit(content: dict[str, Any]) -> None:
        for entry in content["model"]["vocab"]:
            if entry[0] in tokens:
                entry[0] = f"renamed{entry[0]}"

    return edit


def test_a_long_text_is_cut_from_the_right_and_keeps_its_end_token() -> None:
    long, short = "Question: " + "the " * 100, "Question: the"
    batch = REFERENCE.tokenize([long, short], max_tokens=10)
    assert batch.truncated == [True, False]
    assert len(batch.token_ids[0]) == 10
    assert all(ids[-1] == REFERENCE.end_id for ids in batch.token_ids)
    assert batch.token_ids[0][:9] == REFERENCE.tokenize([long], max_tokens=1000).token_ids[0][:9]


@given(text=st.text(max_size=60), max_tokens=st.integers(min_value=2, max_value=30))
def test_any_text_ends_with_the_end_token_within_the_limit(text: str, max_tokens: int) -> None:
    (ids,), (truncated,) = REFERENCE.tokenize([text], max_tokens)
    full_ids = REFERENCE.tokenize([text], 10_000).token_ids[0]
    assert ids[-1] == REFERENCE.end_id
    assert len(ids) == min(len(full_ids), max_tokens)
    assert truncated == (len(full_ids) > max_tokens)


def test_a_frame_prefix_keeps_the_token_of_its_trailing_space() -> None:
    (ids,) = REFERENCE.tokenize_prefixes(["Frame: "])
    assert ids == [35, 4, 9]  # golden A_tokenizer_calls


def test_padding_and_truncation_saved_in_the_file_are_not_applied(tmp_path: Path, tiny: Path) -> None:
    settings = {
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    }
    path = edited(tiny / "tokenizer.json", tmp_path, lambda content: content.update(settings))
    texts = ["Question: does the frame provide details?"]
    assert Verbalizer(path).tokenize(texts) == Verbalizer(tiny / "tokenizer.json").tokenize(texts)


@pytest.mark.parametrize("token", ["▁yes", "▁no", "▁Option", "▁C", "▁E"])
def test_a_word_of_several_tokens_is_refused(tmp_path: Path, tiny: Path, token: str) -> None:
    path = edited(tiny / "tokenizer.json", tmp_path, without(token))
    with pytest.raises(CheckpointError, match=f"is tokenised as .*expected .*{token}"):
        Verbalizer(path)


def test_only_the_required_letters_must_be_single_tokens(tmp_path: Path, tiny: Path) -> None:
    path = edited(tiny / "tokenizer.json", tmp_path, without("▁E"))
    assert len(Verbalizer(path, required_letters=4).letter_ids) == 4


def test_a_tokenizer_that_drops_the_trailing_space_is_refused(tmp_path: Path, tiny: Path) -> None:
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    path = edited(tiny / "tokenizer.json", tmp_path, lambda content: content["normalizer"]["normalizers"].append(strip))
    with pytest.raises(CheckpointError, match='the last token of "Frame: " is'):
        Verbalizer(path)


def test_a_tokenizer_that_does_not_end_texts_is_refused(tmp_path: Path, tiny: Path) -> None:
    path = edited(tiny / "tokenizer.json", tmp_path, lambda content: content.update(post_processor=None))
    with pytest.raises(CheckpointError, match="does not end texts with </s>"):
        Verbalizer(path)


def test_a_missing_tokenizer_file_is_refused_with_its_source(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").touch()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not found.*flan-t5"):
        Verbalizer(tmp_path / "tokenizer.json")


def test_a_file_that_is_not_a_tokenizer_is_refused(tmp_path: Path, tiny: Path) -> None:
    shutil.copy(tiny / "config.json", tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match="not a tokenizer file"):
        Verbalizer(tmp_path / "tokenizer.json")


def as_sentencepiece(longest: int) -> dict[str, Any]:
    table = (0).to_bytes(4, "little") + b"x" * longest + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


DOUBLED = replace({"String": "a"}, "aa")
ENDING = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1] * 10**5, "tokens": ["</s>"] * 10**5}},
}


@pytest.mark.parametrize(
    "content",
    [
        {"normalizer": DOUBLED},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [DOUBLED] * 22}]}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}] * 9}},
        {"normalizer": replace({"Regex": "(a|aa|e|ee|.)*$#"}, "")},
        {"normalizer": replace({"Regex": r"\s+"}, "ab")},
        {"normalizer": {"type": "ByteLevel"}},
        {"normalizer": {"type": ["NFKC"]}},
        {"normalizer": as_sentencepiece(1000)},
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "(a|aa)*$#"},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        {"post_processor": ENDING},
        {"post_processor": {"type": "Sequence", "processors": []}},
    ],
)
def test_a_tokenizer_that_can_expand_short_texts_is_refused(
    content: dict[str, Any], tmp_path: Path, tiny: Path
) -> None:
    path = edited(tiny / "tokenizer.json", tmp_path, lambda file: file.update(content))
    with pytest.raises(CheckpointError, match=r"use the tokenizer\.json of a Flan-T5 as downloaded"):
        Verbalizer(path)


def test_the_steps_of_flan_t5_files_are_accepted() -> None:
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    steps = [as_sentencepiece(33), strip, replace({"Regex": " {2,}"}, SPACE)]
    splits = [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}]
    content = {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
    }
    assert tokenizer_problem(content) == ""
    assert tokenizer_problem({"normalizer": steps[0], "pre_tokenizer": splits[1]}) == ""
