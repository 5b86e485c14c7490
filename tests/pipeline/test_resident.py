"""What stays loaded from one step of a chain to the next, and when it goes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache.store import Store
from pipeline.engine.stage import RunContext
from pipeline.inference.resident import give_back_language, keeping_language, resident


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return RunContext(Store(tmp_path), device="cpu")


def loaded(run: RunContext, digest: str, part: str = "language", precision: str = "float32") -> Any:
    weights: Any = SimpleNamespace(record=SimpleNamespace(files={"weights": {"sha256": digest}}))
    return resident(weights, part, precision, run, object)


def test_the_steps_of_a_chain_share_a_language_model_and_only_that(run: RunContext) -> None:
    @keeping_language
    def chain() -> None:
        first = loaded(run, "a")
        assert loaded(run, "a") is first
        assert loaded(run, "a", part="visual prompt") is not loaded(run, "a", part="visual prompt")
        assert loaded(run, "a") is first

    chain()
    assert loaded(run, "a") is not loaded(run, "a")  # outside a chain nothing is kept


def test_other_weights_or_another_precision_take_the_place_of_those_that_were_loaded(run: RunContext) -> None:
    @keeping_language
    def chain() -> None:
        first = loaded(run, "a")
        assert loaded(run, "b") is not first
        assert loaded(run, "a") is not first
        assert loaded(run, "a", precision="bfloat16") is not loaded(run, "a")

    chain()


def test_a_language_model_goes_where_other_models_want_its_memory(run: RunContext) -> None:
    @keeping_language
    def chain() -> None:
        first = loaded(run, "a")
        give_back_language()
        assert loaded(run, "a") is not first

    chain()
