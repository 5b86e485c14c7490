"""What stays loaded from one step of a chain to the next, and when it goes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cache.store import Store
from pipeline.engine.stage import RunContext
from pipeline.inference.resident import give_back_language, keeping_language, resident, warn_of_slow


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


def test_a_language_model_goes_where_other_models_want_its_memory(
    run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(True))

    @keeping_language
    def chain() -> None:
        give_back_language()
        assert not freed  # nothing is loaded
        first = loaded(run, "a")
        give_back_language()
        assert freed  # other processes can have it, too
        assert loaded(run, "a") is not first

    chain()


def test_a_model_in_sixteen_bits_on_a_cpu_is_warned_of_once_and_where_it_is_loaded(
    run: RunContext, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_slow.cache_clear()
    loaded(run, "a")
    assert "on a CPU" not in caplog.text
    for _ in range(2):
        loaded(run, "a", precision="bfloat16")
    assert caplog.text.count("models compute in bfloat16 on a CPU") == 1 and "--precision float32" in caplog.text
