"""Models stay loaded between the steps of a block until memory is wanted, the least recently used dropped first."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cache.store import Store
from pipeline import devices, loaded_models
from pipeline.devices import DeviceMemory, device_memory
from pipeline.engine.stage import RunContext
from pipeline.engine.weights import Weights
from pipeline.inference.resident import resident, warn_of_slow
from pipeline.loaded_models import keeping_models, make_room
from pipeline.memory import Halving


class Model:
    """Stands for a loaded model."""


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return RunContext(Store(tmp_path), device="cpu")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The free memory of a device of 100 bytes, on which a model takes none."""
    free = [100]
    monkeypatch.setattr(loaded_models, "device_memory", lambda device: DeviceMemory(free[0], 100))
    return free


def load(run: RunContext, digest: str, part: str = "language", precision: str = "float32") -> Model:
    weights: Any = SimpleNamespace(record=SimpleNamespace(files={"weights": {"sha256": digest}}))
    return resident(weights, part, precision, run, Model)


def test_steps_share_models_of_equal_weights_part_and_precision_until_their_block_ends(run: RunContext) -> None:
    @keeping_models()
    def chain() -> Model:
        first = load(run, "a")
        others = [load(run, "b"), load(run, "a", part="vision"), load(run, "a", precision="bfloat16")]
        assert len({first, *others}) == 4
        assert load(run, "a") is first and load(run, "b") is others[0]
        outside = resident(Weights(None, files={"model.safetensors": "a"}), "language", "float32", run, Model)
        assert outside is first  # files outside the store have digests, too
        return first

    assert chain() is not chain()
    assert load(run, "a") is not load(run, "a")  # outside a block nothing is kept
    with keeping_models():
        assert chain() is chain()  # within an enclosing block models stay until that ends


def test_where_room_is_short_the_least_recently_used_models_that_nothing_uses_are_dropped(
    run: RunContext, memory: list[int]
) -> None:
    with keeping_models():
        used, first, second = load(run, "used"), *(id(load(run, digest)) for digest in ("first", "second"))
        survivors = [used, load(run, "first")]  # which makes "second" the oldest that nothing uses
        make_room(75, "cpu")  # a quarter stays free
        assert id(load(run, "second")) == second
        make_room(76, "cpu")
        again = load(run, "second")
        assert [load(run, "used"), load(run, "first")] == survivors and id(survivors[1]) == first
        survivors.clear()
        memory[0] = 0
        make_room(0, "cpu")
        assert load(run, "used") is used and load(run, "second") is again  # nothing else is left


def test_making_all_room_releases_the_models_and_their_gpu_memory(
    run: RunContext, memory: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(True))
    with keeping_models():
        make_room(math.inf, "cpu")
        assert not freed  # no model is loaded
        numbers = [load(run, digest).__init__ for digest in "ab"]  # bound methods, which use their models
        make_room(math.inf, "cpu")
        assert not freed
        numbers.clear()
        make_room(math.inf, "cpu")
        assert len(freed) == 2  # for other processes


def test_a_batch_that_runs_out_of_memory_is_tried_whole_again_without_the_models_that_nothing_uses(
    run: RunContext,
) -> None:
    sizes: list[int] = []

    def compute(rows: range) -> int:
        sizes.append(len(rows))
        if len(sizes) <= 3:
            raise MemoryError("too many")
        return sum(rows)

    with keeping_models():
        for digest in "ab":
            load(run, digest)
        assert Halving("score_frames")(compute, range(8)) == [6, 22]
    assert sizes == [8, 8, 8, 4, 4]  # two models to drop, then half the rows


def test_memory_of_the_cpu_is_the_machines_or_what_is_left_of_a_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "CONTAINER_LIMIT", limit)
    whole = device_memory("cpu")
    assert 0 < whole.free <= whole.total
    limit.write_text("max\n")
    assert device_memory("cpu").total == whole.total
    limit.write_text(f"{whole.total // 2}\n")
    assert device_memory("cpu").total == whole.total // 2 > device_memory("cpu").free


def test_loading_bfloat16_on_a_cpu_logs_one_warning(run: RunContext, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_slow.cache_clear()
    load(run, "a")
    assert "on a CPU" not in caplog.text
    for _ in range(2):
        load(run, "a", precision="bfloat16")
    assert caplog.text.count("models compute in bfloat16 on a CPU") == 1 and "--precision float32" in caplog.text
