"""A model stage begins on the finished shards of an input that is still being made."""

import logging
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cache.store import Store
from pipeline.engine import ahead, steps
from pipeline.engine.dry_run import DryRun
from pipeline.engine.places import KINDS
from pipeline.engine.stage import RunContext
from pipeline.engine.steps import RunPieces
from pipeline.inference import frame_encoding
from pipeline.recipes.opening import Request, open_recipe
from stages import sample_frames
from stages.all import STAGES
from stages.chain import chain_of
from tests.small_world import SMALL
from tests.stages.runs import files, sevila

SHARDS = ("--shard-megabytes", "0.01")  # one video each


@pytest.fixture(scope="module")
def plain(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a run whose steps follow each other."""
    store = tmp_path_factory.mktemp("plain")
    assert sevila("run", demo, store, *SHARDS) == 0
    return store


def features(store: Path) -> list[Path]:
    return list((store / "pool").glob("extract_features-*/*/*/*.json"))


def in_steps(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    """Let the last shard of sampling wait for features of another one."""
    write_tables = sample_frames._write_tables

    def wait(videos: Any, pool: Any, attempts: Any, shard: Any) -> None:
        give_up = time.monotonic() + 60
        while shard.number == shard.of - 1 and not features(store):
            assert time.monotonic() < give_up, "nothing is encoded before everything is sampled"
            time.sleep(0.01)
        write_tables(videos, pool, attempts, shard)

    monkeypatch.setattr(sample_frames, "_write_tables", wait)
    monkeypatch.setattr(ahead, "SHARD_POLL_SECONDS", 0.01)
    monkeypatch.setattr(steps, "SHARD_POLL_SECONDS", 0.01)


def test_finished_shards_are_encoded_once_and_while_other_videos_are_sampled(
    demo: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_encoded = 0
    compute = frame_encoding._FrameEncoder._compute

    def counted(self: Any, encoder: Any, batch: Any) -> Any:
        nonlocal n_encoded
        n_encoded += len(batch)
        return compute(self, encoder, batch)

    monkeypatch.setattr(frame_encoding._FrameEncoder, "_compute", counted)
    monkeypatch.setattr(ahead, "overlaps", lambda run: True)
    in_steps(monkeypatch, tmp_path)
    assert sevila("run", demo, tmp_path, *SHARDS) == 0
    assert files(tmp_path) == files(plain)
    (record,) = [Store(plain).record(id) for id in Store(plain) if id.startswith("sample_frames-")]
    frames = sample_frames.Frames(Store(plain), record.id)
    assert n_encoded == sum(video.n_frames for video in frames.videos())


def test_a_sweep_encodes_finished_shards_while_other_videos_are_sampled(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "overlaps", lambda run: True)
    in_steps(monkeypatch, tmp_path)
    assert sevila("sweep", demo, tmp_path, "--selectors", "top_k", "--k", "1", *SHARDS) == 0


def test_an_error_on_a_finished_shard_is_a_warning_and_the_step_runs_on_the_whole_input(
    demo: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*step: Any) -> None:
        raise RuntimeError("the GPU is busy")

    monkeypatch.setattr(ahead, "_compute", broken)
    monkeypatch.setattr(ahead, "overlaps", lambda run: True)
    with caplog.at_level(logging.WARNING, "sevila"):
        assert sevila("run", demo, tmp_path, *SHARDS) == 0
    assert "extract_features: waits for the whole input: the GPU is busy" in caplog.text
    assert files(tmp_path) == files(plain)


def test_on_a_cpu_models_wait_until_all_is_sampled(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_features: list[int] = []
    write_tables = sample_frames._write_tables

    def counted(*arguments: Any) -> None:
        n_features.append(len(features(tmp_path)))
        write_tables(*arguments)

    monkeypatch.setattr(sample_frames, "_write_tables", counted)
    assert sevila("run", demo, tmp_path, *SHARDS) == 0
    assert len(n_features) > 1 and not any(n_features)


def opened(demo: Path, store: Path) -> Any:
    places = {"annotations": [f"{demo}/questions.csv"], "videos": [f"{demo}/videos"]}
    places["weights"] = [f"tiny-blip2={demo}/tiny-blip2"]
    run = RunContext(Store(store), "cpu", shard_bytes=int(0.01 * 2**20))
    return open_recipe(Request(SMALL, (), None, places), STAGES, run, remembered=KINDS)


def piece_of_features(demo: Path, store: Path, **how: Any) -> str:
    """Build the missing pieces of the features as a worker does, and return their id."""
    recipe, run, sources = opened(demo, store)
    (planned,) = [
        step for step in DryRun(recipe, run).walk(chain_of(recipe), sources) if step.stage == "extract_features"
    ]
    assert planned.id is not None
    RunPieces(planned.id, recipe, run, **how).walk(chain_of(recipe), sources)
    return planned.id


def test_a_worker_begins_on_an_unfinished_input_and_then_makes_the_pieces(
    demo: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sevila("stage", demo, tmp_path, "list_questions", *SHARDS) == 0
    for stage in ("import_backbone", "init_localizer", "init_answerer"):
        assert sevila("stage", demo, tmp_path, stage, *SHARDS) == 0
    in_steps(monkeypatch, tmp_path)
    sampler = Thread(target=sevila, args=("stage", demo, tmp_path, "sample_frames", *SHARDS))
    sampler.start()
    id = piece_of_features(demo, tmp_path)
    sampler.join()
    assert sorted(path.name for path in (Store(tmp_path).partial(id) / "progress").glob("0*.json"))
    assert sevila("run", demo, tmp_path, *SHARDS) == 0
    assert files(tmp_path) == files(plain)


def test_a_worker_that_others_want_does_not_wait_for_an_input_that_nobody_makes(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "PATIENT_SECONDS", 0.0)
    for stage in ("list_questions", "import_backbone", "init_localizer", "init_answerer"):
        assert sevila("stage", demo, tmp_path, stage, *SHARDS) == 0
    id = piece_of_features(demo, tmp_path, is_wanted_elsewhere=lambda: True)
    assert not Store(tmp_path).partial(id).exists()
