"""Over the steps of a chain each model is loaded once, whatever that does to memory; artifacts do not depend on it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cache.errors import SevilaError
from cli import main
from pipeline import loaded_models
from pipeline.devices import DeviceMemory
from pipeline.loaded_models import keeping_models
from pipeline.models import checkpoint
from pipeline.training import launch
from stages.init_answerer import AnswererWeights
from tests.stages.moment_world import places as places_of_moments
from tests.stages.moment_world import write_world
from tests.stages.runs import files, records, sevila
from tests.stages.training import World, make_world, weights_of

Loads = Counter[tuple[str, str]]  # of (file or folder of weights, part)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world") / "demo")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Counts the loads of tensors; there is plenty of memory."""
    counted: Loads = Counter()
    load = checkpoint.fill

    def fill(module: Any, path: Path, part: str, *rest: Any, **options: Any) -> None:
        counted[path.parent.name if path.is_file() else path.name, part] += 1
        load(module, path, part, *rest, **options)

    monkeypatch.setattr(checkpoint, "fill", fill)
    with_free_memory(monkeypatch, 1 << 40)
    return counted


def with_free_memory(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(loaded_models, "device_memory", lambda device: DeviceMemory(n_bytes, 1 << 40))


def parameters(*modules: Any) -> list[bytes]:
    return [tensor.numpy(force=True).tobytes() for module in modules for tensor in module.state_dict().values()]


def test_a_chain_reads_each_model_once_and_makes_what_steps_by_themselves_make(
    demo: Path, tmp_path: Path, loads: Loads
) -> None:
    assert sevila("run", demo, tmp_path / "chain") == 0
    prompt = next(key for key in loads if key[1] == "visual prompt")  # of Localizer and Answerer: BLIP-2's own
    once = {key: 1 for key in (prompt, ("tiny-blip2", "ViT"), ("tiny-blip2", "language model"))}
    assert loads == once | {("tiny-blip2", "blip2"): 2}  # the last by the imports of Localizer and Answerer
    loads.clear()
    in_order = sorted(records(tmp_path / "chain").values(), key=lambda record: record.finished)
    for record in in_order:
        assert sevila("stage", demo, tmp_path / "steps", record.stage) == 0
    assert loads["tiny-blip2", "language model"] == 2 == loads.total() - 5
    assert files(tmp_path / "steps") == files(tmp_path / "chain")


def test_with_little_memory_models_that_no_step_uses_are_dropped_and_the_chain_makes_the_same(
    demo: Path, finished: Path, tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free_memory(monkeypatch, 0)
    assert sevila("run", demo, tmp_path) == 0
    # The ViT and the Localizer are dropped; each language model is the running step's when the next is wanted.
    assert 1 <= loads["tiny-blip2", "language model"] <= 2 and loads.total() >= 5
    assert files(tmp_path) == files(finished)


def test_a_training_changes_no_shared_model_and_what_it_trained_is_loaded_anew(
    world: World, tmp_path: Path, loads: Loads
) -> None:
    run, answerer, backbone = world.run(tmp_path / "kept"), world.inputs["answerer"], world.inputs["backbone"]
    alone = world.train("finetune_answerer", tmp_path / "alone")
    loads.clear()
    with keeping_models():
        language, prompt = backbone.language(run, "float32"), answerer.load(run, backbone, "float32")
        before = parameters(language.model, prompt)
        kept = world.train("finetune_answerer", tmp_path / "kept")
        assert weights_of(kept) == weights_of(alone)
        assert parameters(language.model, prompt) == before
        assert not any(parameter.requires_grad for parameter in (*prompt.parameters(), *language.model.parameters()))
        assert answerer.load(run, backbone, "float32") is prompt and not prompt.training
        trained = AnswererWeights(kept.store, kept.id).load(run, backbone, "float32")
        assert parameters(trained) != parameters(prompt)
    # The frozen Answerer, the training's own copy of it, and the trained one.
    assert Counter(part for _, part in loads.elements()) == {"language model": 1, "visual prompt": 3}


def test_a_training_in_little_memory_keeps_the_language_model_that_it_uses_and_drops_the_others(
    world: World, tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, backbone = world.run(tmp_path), world.inputs["backbone"]
    with keeping_models():
        backbone.language(run, "float32")
        backbone.vision_encoder(run, "float32")
        with_free_memory(monkeypatch, 0)
        world.train("finetune_answerer", tmp_path, gradient_checkpointing=True)
        with_free_memory(monkeypatch, 1 << 40)
        assert loads["tiny-blip2", "language model"] == 1
        backbone.vision_encoder(run, "float32")
    assert loads["tiny-blip2", "ViT"] == 2


def test_a_training_in_several_processes_frees_all_kept_models_first(
    world: World, tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*arguments: Any) -> None:
        assert not loaded_models.drop_oldest()  # nothing is left
        raise SevilaError("the processes would start now")

    monkeypatch.setattr(launch, "start_processes", start)
    run, backbone = world.run(tmp_path), world.inputs["backbone"]
    with keeping_models():
        backbone.language(run, "float32")
        world.inputs["answerer"].load(run, backbone, "float32")
        with pytest.raises(SevilaError, match="would start now"):
            world.train("finetune_answerer", tmp_path, run={"processes": 2})


@pytest.mark.slow
def test_a_full_chain_reads_each_model_once_besides_the_copies_that_are_trained(tmp_path: Path, loads: Loads) -> None:
    world, store = tmp_path / "world", tmp_path / "store"
    write_world(world)
    assert main(["run", str(world / "full.toml"), *places_of_moments(world, store)]) == 0
    assert loads["tiny-blip2", "language model"] == loads["tiny-blip2", "ViT"] == 1
    prompts = Counter({id.split("-v1-")[0]: n for (id, part), n in loads.items() if part == "visual prompt"})
    shared = {
        "init_answerer": 1,
        "pretrain_localizer": 1,
        "refine_localizer": 1,
        "finetune_answerer": 1,
    }  # of each of three
    trained = {"init_answerer": 3, "init_localizer": 1, "pretrain_localizer": 1}
    assert prompts == Counter(shared) + Counter(trained)
