"""The stage contract, tested with two small stages that write tables to a store."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import numpy as np
import pytest
from pydantic import Field, ValidationError

from cache.errors import MissingSourceError, SchemaError
from cache.record import artifact_id
from cache.store import Store
from cache.tables import Schema
from pipeline.engine.build import build, build_missing, count_missing
from pipeline.engine.output import Output, Shard, ShardedOutput
from pipeline.engine.stage import Artifact, Config, Plan, RunContext, stage
from pipeline.engine.weights import Weights
from stages.list_questions import ListQuestions
from tests.waiting import wait_until


class Numbers(Artifact):
    kind = "numbers"
    tables = {"numbers": Schema(1, number="int32")}


class Squares(Artifact):
    kind = "squares"
    tables = {"squares": Schema(1, square="int32")}


class Count(Config):
    n: int = Field(6, ge=1)
    scale: float = 1.0


class Square(Config):
    pass


@stage(version=1, output=Numbers)
def toy_count(cfg: Count, run: RunContext, weights: Weights | None, *, out: Output) -> None:
    """Count."""
    out.write_rows("numbers", [{"number": number} for number in range(cfg.n)])


def plan_squares(run: RunContext, numbers: Numbers) -> Plan:
    n, size = len(numbers.rows("numbers")), run.shard_bytes
    return Plan([list(range(start, min(start + size, n))) for start in range(0, n, size)])


@stage(version=1, output=Squares, plan=plan_squares)
def toy_square(cfg: Square, run: RunContext, numbers: Numbers, *, out: ShardedOutput) -> None:
    """Square numbers; TOY_FAIL_AT makes one shard fail, TOY_LOG gets a line for each started shard."""
    rows = numbers.rows("numbers")

    def work(shard: Shard) -> None:
        with open(os.environ["TOY_LOG"], "a") as log:
            log.write(f"{shard.number}\n")
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        if os.environ.get("TOY_FAIL_AT") == str(shard.number):
            raise OSError("disk full")
        shard.write_rows("squares", [{"square": rows[item]["number"] ** 2} for item in shard.items])

    out.each_shard(work)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "started"))
    return RunContext(Store(tmp_path / "store"), device="cpu", shard_bytes=2)


def started(run: RunContext) -> list[int]:
    log = run.store.root.parent / "started"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def content(artifact: Artifact) -> dict[str, str]:
    return {name: file["sha256"] for name, file in artifact.record.files.items()}


def test_config_and_inputs_are_derived_from_the_signature() -> None:
    assert toy_square.config is Square and toy_square.inputs == ("numbers",)
    assert toy_count.summary == "Count."


def test_a_second_build_reuses_the_first(run: RunContext, caplog: pytest.LogCaptureFixture) -> None:
    first = build(toy_count, Count(), run, [None])
    with caplog.at_level(logging.INFO, "sevila"):
        second = build(toy_count, Count(), run, [None])
    assert second.id == first.id
    assert "toy_count: reused" in caplog.text


def test_config_changes_identity_and_execution_does_not(run: RunContext, tmp_path: Path) -> None:
    numbers = build(toy_count, Count(), run, [None])
    assert build(toy_count, Count(n=5), run, [None]).id != numbers.id
    other_run = RunContext(Store(tmp_path / "other_run"), device="cpu", shard_bytes=3, batch_tokens=1, decode_workers=7)
    assert build(toy_count, Count(), other_run, [None]).id == numbers.id


def test_an_integer_for_a_float_key_gives_the_same_identity(run: RunContext) -> None:
    assert toy_count.artifact_id(Count(scale=1), [None]) == toy_count.artifact_id(Count(scale=1.0), [None])


@pytest.mark.parametrize("place", ["/data/x", "./x", "~/x", "../x"])
def test_a_path_in_a_config_is_refused_with_advice(place: str) -> None:
    class Named(Config):
        name: str

    with pytest.raises(ValidationError, match=r"is a path; a recipe names data.*sevila\.toml"):
        Named(name=place)


def test_a_missing_input_is_named(run: RunContext) -> None:
    with pytest.raises(MissingSourceError, match="toy_count needs weights: no path is given"):
        build(toy_count, Count(), run, [Weights(None, "no path is given")])


def test_an_invalid_row_publishes_nothing(run: RunContext) -> None:
    @stage(version=1, output=Numbers)
    def toy_count(cfg: Count, run: RunContext, *, out: Output) -> None:
        out.write_rows("numbers", [{"number": "three"}])

    with pytest.raises(SchemaError):
        build(toy_count, Count(), run, [])
    assert list(run.store) == []


def test_a_record_lists_inputs_rows_schemas_and_files(run: RunContext) -> None:
    numbers = build(toy_count, Count(), run, [None])
    record = build(toy_square, Square(), run, [numbers]).record
    assert record.inputs == {"numbers": numbers.id}
    assert record.rows == {"squares": 6}
    assert record.schemas["squares"] == {"version": 1, "columns": {"square": "int32"}}
    assert record.libraries["pyarrow"] and record.host and record.started <= record.finished
    assert set(record.files) == {f"squares/0000{number}.parquet" for number in range(3)}


def test_a_resumed_build_runs_only_unfinished_shards(
    run: RunContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    numbers = build(toy_count, Count(), run, [None])
    monkeypatch.setenv("TOY_FAIL_AT", "1")
    with pytest.raises(OSError, match="disk full"):
        build(toy_square, Square(), run, [numbers])
    assert started(run) == [0, 1]
    monkeypatch.delenv("TOY_FAIL_AT")
    # The first plan is kept although the shard size differs.
    resumed = build(toy_square, Square(), RunContext(run.store, device="cpu", shard_bytes=6), [numbers])
    assert started(run) == [0, 1, 1, 2]
    assert [row["square"] for row in resumed.rows("squares")] == [0, 1, 4, 9, 16, 25]
    fresh = RunContext(Store(tmp_path / "other"), device="cpu", shard_bytes=2)
    uninterrupted = build(toy_square, Square(), fresh, [build(toy_count, Count(), fresh, [None])])
    assert content(uninterrupted) == content(resumed)


def test_a_finished_shard_whose_file_a_user_deleted_is_made_again(
    run: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = build(toy_count, Count(), run, [None])
    monkeypatch.setenv("TOY_FAIL_AT", "2")
    with pytest.raises(OSError, match="disk full"):
        build(toy_square, Square(), run, [numbers])
    monkeypatch.delenv("TOY_FAIL_AT")
    (first,) = (run.store.root / "partial").glob("toy_square-*/squares/00000.parquet")
    first.unlink()
    resumed = build(toy_square, Square(), run, [numbers])
    assert started(run) == [0, 1, 2, 0, 2]
    assert [row["square"] for row in resumed.rows("squares")] == [0, 1, 4, 9, 16, 25]


def test_another_shard_count_gives_the_same_rows_and_the_same_id(run: RunContext, tmp_path: Path) -> None:
    one = build(toy_square, Square(), run, [build(toy_count, Count(), run, [None])])
    other_run = RunContext(Store(tmp_path / "other"), device="cpu", shard_bytes=5)
    other = build(toy_square, Square(), other_run, [build(toy_count, Count(), other_run, [None])])
    assert other.id == one.id and other.rows("squares") == one.rows("squares")


WORKER = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.stage import RunContext
from test_stage import Count, Square, toy_count, toy_square
run = RunContext(Store(Path({store!r})), device="cpu", shard_bytes=2)
build(toy_square, Square(), run, [build(toy_count, Count(n=12), run, [None])])
"""


def start_worker(run: RunContext, **environment: str) -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    code = textwrap.dedent(WORKER).format(paths=paths, store=str(run.store.root))
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **environment})


def test_processes_share_the_shards_without_repeating_any(run: RunContext) -> None:
    workers = [start_worker(run, TOY_SECONDS="0.3") for _ in range(3)]
    assert [worker.wait(timeout=600) for worker in workers] == [0, 0, 0]
    assert sorted(started(run)) == list(range(6))
    [squares] = [id for id in run.store if id.startswith("toy_square")]
    assert [row["square"] for row in Squares(run.store, squares).rows("squares")] == [n * n for n in range(12)]


def test_a_killed_build_resumes_without_its_finished_shards(run: RunContext) -> None:
    worker = start_worker(run, TOY_SECONDS="0.4")
    wait_until(lambda: len(started(run)) >= 3)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert not [id for id in run.store if id.startswith("toy_square")]
    assert start_worker(run).wait(timeout=600) == 0
    assert started(run) == [0, 1, 2, 2, 3, 4, 5]
    [squares] = [id for id in run.store if id.startswith("toy_square")]
    assert [row["square"] for row in Squares(run.store, squares).rows("squares")] == [n * n for n in range(12)]


def test_a_record_names_the_hosts_that_computed_its_shards(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [build(toy_count, Count(), run, [None])]
    id = toy_square.artifact_id(Square(), inputs)
    for host, number in zip("bab", range(3), strict=True):
        monkeypatch.setattr("platform.node", lambda host=host: host)
        with ExitStack() as others:  # hosts that work at the later shards
            for other in range(number + 1, 3):
                others.enter_context(run.store.lock(f"{id}/{other:05d}"))
            build_missing(toy_square, Square(), run, inputs)
    assert started(run) == [0, 1, 2]
    monkeypatch.setattr("platform.node", lambda: "c")
    record = build(toy_square, Square(), run, inputs).record
    assert record.host == "a, b" and record.device == "cpu" and record.peak_memory_bytes > 0


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system counts for the whole process")
def test_the_peak_memory_of_a_record_excludes_earlier_work(run: RunContext) -> None:
    held = np.ones(400 << 20, "uint8")
    before = build(toy_count, Count(), run, [None]).record.peak_memory_bytes
    del held
    squares = build(toy_square, Square(), run, [build(toy_count, Count(), run, [None])])
    assert before > 400 << 20 and squares.record.peak_memory_bytes < before - (300 << 20)


def test_a_record_names_a_gpu_only_if_its_stage_uses_one(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(RunContext, "torch_device", lambda run: "cuda")
    monkeypatch.setattr(
        torch, "cuda", MagicMock(max_memory_allocated=lambda device: 7, get_device_name=lambda device: "X")
    )
    record = build(toy_count, Count(), run, [None]).record
    assert (record.device, record.peak_gpu_memory_bytes) == ("cpu", 0)
    record = build(replace(toy_square, gpu=True), Square(), run, [build(toy_count, Count(), run, [None])]).record
    assert (record.device, record.peak_gpu_memory_bytes) == ("cuda X", 7)


def test_a_locked_unsharded_piece_is_left_to_its_owner(run: RunContext) -> None:
    with run.store.lock(f"{toy_count.artifact_id(Count(), [None])}/build"):
        build_missing(toy_count, Count(), run, [None])
        assert count_missing(toy_count, Count(), run, [None]) == 1
    build_missing(toy_count, Count(), run, [None])
    assert count_missing(toy_count, Count(), run, [None]) == 0


def test_a_helper_starts_with_the_last_shard_and_skips_locked_ones(run: RunContext) -> None:
    inputs = [build(toy_count, Count(), run, [None])]
    id = toy_square.artifact_id(Square(), inputs)
    assert count_missing(toy_square, Square(), run, inputs) == 3
    with run.store.lock(f"{id}/00001"):
        build_missing(toy_square, Square(), run, inputs)
    assert started(run) == [2, 0] and count_missing(toy_square, Square(), run, inputs) == 1
    build_missing(toy_square, Square(), run, inputs)
    assert started(run) == [2, 0, 1] and count_missing(toy_square, Square(), run, inputs) == 0


def test_the_plan_is_stored_with_the_artifact(run: RunContext) -> None:
    squares = build(toy_square, Square(), run, [build(toy_count, Count(), run, [None])])
    plan = json.loads((squares.path / "progress" / "plan.json").read_text())
    assert plan["shards"] == [[0, 1], [2, 3], [4, 5]]


def test_planning_does_not_run_the_stage(run: RunContext) -> None:
    def body(cfg: Square, run: RunContext, numbers: Numbers, *, out: ShardedOutput) -> None:
        raise AssertionError("planning must not run the stage")

    inputs = [build(toy_count, Count(), run, [None])]
    planned = dataclasses.replace(toy_square, function=body)
    assert count_missing(planned, Square(), run, inputs) == 3 and started(run) == []
    build(toy_square, Square(), run, inputs)
    assert count_missing(planned, Square(), run, inputs) == 0


def test_a_later_key_changes_the_id_only_at_another_value() -> None:
    class ListShuffledQuestions(ListQuestions):
        later: ClassVar[Mapping[str, Any]] = {**ListQuestions.later, "shuffled": False}
        shuffled: bool = False

    def id_of(**changes: Any) -> str:
        config = ListShuffledQuestions(dataset="plain", split="", limit=None, **changes).model_dump(mode="python")
        return artifact_id("list_questions", 3, config, {"annotations": "annotations-708cde612a0cce7f9726"})

    assert id_of() == id_of(shuffled=False) == "list_questions-v3-9168df0ade8fd94414b1" != id_of(shuffled=True)


def test_a_plan_with_a_parameter_unknown_to_its_stage_is_refused() -> None:
    def toy_other(cfg: Square, run: RunContext, numbers: Numbers, *, out: ShardedOutput) -> None:
        """Never called."""

    with pytest.raises(AssertionError, match="a plan takes of what its stage takes"):
        stage(version=1, output=Squares, plan=lambda letters: Plan([letters]))(toy_other)
