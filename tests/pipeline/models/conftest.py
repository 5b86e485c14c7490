from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.models.answerer import Answerer
from pipeline.models.checkpoint import load_language, load_visual_prompt
from pipeline.models.config import read_blip2_config
from pipeline.models.language import Language
from pipeline.models.localizer import Localizer
from pipeline.models.verbalizer import Verbalizer
from tests.reference import PARITY, Reference
from tests.tiny_blip2 import write_tiny_blip2


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BLIP-2 directory; copy it before you write to it."""
    folder = tmp_path_factory.mktemp("tiny_blip2")
    write_tiny_blip2(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def language(tiny: Path) -> Language:
    return load_language(read_blip2_config(tiny), tiny, Verbalizer(tiny / "tokenizer.json"))


@pytest.fixture(scope="session")
def localizer(tiny: Path, language: Language) -> Localizer:
    return Localizer(load_visual_prompt(read_blip2_config(tiny), tiny, "blip2"), language)


@pytest.fixture(scope="session")
def answerer(localizer: Localizer) -> Answerer:
    return Answerer(localizer.prompt, localizer.language)


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference(PARITY)
