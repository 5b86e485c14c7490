"""The tokenizer of the Shapes backbone: a Unigram tokenizer like T5's, whose pieces may span several words.

A whole instruction is one piece, and so is an option with its letter: sequences are short, and a letter and its meaning are one
token. All other text is tokenized character by character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pipeline.models import prompts
from pipeline.shapes.drawing import COLOURS, SHAPES
from pipeline.shapes.world import MOTIONS, N_OPTIONS, STATEMENTS, UNSEEN

SPACE = "▁"
LETTERS = "ABCDEFGHIJ"[:N_OPTIONS]
THINGS = tuple(f"a {colour} {shape}" for colour, shape in product(COLOURS, SHAPES))
OPTIONS = (*COLOURS, *SHAPES, *MOTIONS, *THINGS, UNSEEN)
PLACES = ("centre", "west", "east", "north", "south")  # positions of a thing in a frame
EMPTY, UNCOLOURED = "nothing", "grey"
SEEN = tuple(f"a {colour} {shape}" for colour, shape in product((*COLOURS, UNCOLOURED), SHAPES))


def write_tokenizer(path: Path) -> None:
    """Write `tokenizer.json`, deterministically."""
    phrases = list(dict.fromkeys(SPACE + text.replace(" ", SPACE) for text in _pieces()))
    characters = [SPACE, *(chr(code) for code in range(33, 127))]
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    # Equal log-probabilities, far above those of characters, select the segmentation with the fewest pieces.
    vocabulary += [(token, -5.0) for token in phrases] + [(character, -20.0) for character in characters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(path))


def words_of(piece: str) -> list[str]:
    """Return the meaningful words of a piece, including its option letter; they determine its initial embedding."""
    letter = re.search(rf"Option▁([{LETTERS}]):", piece)
    words = [word for word in re.findall("[a-z]+", piece) if word in _MEANINGS] if len(piece) < 60 else []
    return ([letter[1]] if letter else [piece[1:]] if piece[1:] in LETTERS else []) + words


_MEANINGS = {*COLOURS, *SHAPES, *MOTIONS, *PLACES, EMPTY, UNCOLOURED, "stays", *UNSEEN.split()}


def _pieces() -> Iterator[str]:
    yield from ("Frame:", *(f"Frame {number}:" for number in range(1, 33)))
    yield from (prompts.ANSWER_INSTRUCTION, *prompts.LOCALIZE_INSTRUCTIONS.values())
    yield from ("Question:", "Option", *LETTERS, *prompts.LOCALIZE_TARGETS)
    yield from ("Option A: yes. Option B: no.", ")")
    for option in OPTIONS:
        yield from (option, f"Options: ({option}", *(f"Option {letter}: {option}" for letter in LETTERS))
    yield from ("What colour is the", "What shape is the", "Where does the", "What comes after the")
    yield from (f"{shape}{end}" for shape, end in product(SHAPES, ("?", " go?")))
    yield from (f"{colour} thing?" for colour in COLOURS)
    yield from (f"A {colour}" for colour in COLOURS)
    yield from STATEMENTS.values()
    yield from (*SEEN, *PLACES, EMPTY, UNCOLOURED)
