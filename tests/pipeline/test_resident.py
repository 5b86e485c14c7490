"""The language model stays loaded between steps of a chain until it is replaced or released."""

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


def load(run: RunContext, digest: str, part: str = "language", precision: str = "float32") -> Any:
    weights: Any = SimpleNamespace(record=SimpleNamespace(files={"weights": {"sha256": digest}}))
    return resident(weights, part, precision, run, object)


def test_steps_of_a_chain_share_only_the_language_model(run: RunContext) -> None:
    @keeping_language
    def chain() -> None:
        first = load(run, "a")
        assert load(run, "a") is first
        assert load(run, "a", part="visual prompt") is not load(run, "a", part="visual prompt")
        assert load(run, "a") is first

    chain()
    assert load(run, "a") is not load(run, "a")  # outside a chain nothing is kept


def test_other_weights_or_precision_replace_the_loaded_model(run: RunContext) -> None:
    @keeping_language
    def chain() -> None:
        first = load(run, "a")
        assert load(run, "b") is not first
        assert load(run, "a") is not first
        assert load(run, "a", precision="bfloat16") is not load(run, "a")

    chain()


def test_give_back_language_releases_the_model_and_its_gpu_memory(
    run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(True))

    @keeping_language
    def chain() -> None:
        give_back_language()
        assert not freed  # no model is loaded
        first = load(run, "a")
        give_back_language()
        assert freed  # for other processes
        assert load(run, "a") is not first

    chain()


def test_loading_bfloat16_on_a_cpu_logs_one_warning(run: RunContext, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_slow.cache_clear()
    load(run, "a")
    assert "on a CPU" not in caplog.text
    for _ in range(2):
        load(run, "a", precision="bfloat16")
    assert caplog.text.count("models compute in bfloat16 on a CPU") == 1 and "--precision float32" in caplog.text
