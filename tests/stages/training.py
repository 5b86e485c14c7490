"""A few rendered videos with known moments, their features in a store, and every kind of training on them."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stages.chain  # noqa: F401 - declares the stages
from cache.store import Store
from pipeline.build import build
from pipeline.sources import Sources
from pipeline.stage import STAGES, RunContext
from stages.visual_prompt_weights import FILE
from tests.small_world import write_small_world

INPUTS = {
    "pretrain_localizer": ("questions", "frames", "features", "backbone", "localizer"),
    "refine_localizer": ("questions", "frames", "features", "backbone", "localizer", "labels"),
    "finetune_answerer": ("questions", "keyframes", "features", "backbone", "answerer"),
}
# The demo's eight readable videos make three questions each; a few steps of all of them.
FEW_STEPS = {"epochs": 2, "batch_size": 9, "warmup_steps": 1, "learning_rate": 1e-3}


@dataclass
class World:
    """Where everything lies, and the artifacts that trainings read."""

    folder: Path
    inputs: dict[str, Any]

    def run(self, store: Path, **changes: Any) -> RunContext:
        places = {"annotations": [str(self.folder / "questions.jsonl")], "videos": [str(self.folder / "videos")]}
        places["weights"] = [f"tiny-blip2={self.folder / 'tiny-blip2'}"]
        found = Store(store)
        return RunContext(found, device="cpu", sources=Sources(found.digests, places), **changes)

    def train(self, name: str, store: Path, run: dict[str, Any] | None = None, **config: Any) -> Any:
        """Run a training stage into a store of its own; inputs are read from where they lie."""
        stage = STAGES[name]
        inputs = [self.inputs[which] for which in INPUTS[name]]
        return build(stage, stage.config(**{**FEW_STEPS, **config}), self.run(store, **(run or {})), inputs)


def weights_of(trained: Any) -> bytes:
    return Path(trained.path / FILE).read_bytes()


def make_world(folder: Path) -> World:
    """Render the demo's videos; the second of each video's three questions is answered by its middle third."""
    write_small_world(folder)
    with (folder / "questions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (folder / "questions.csv").unlink()
    lines = []
    for number, row in enumerate(rows):
        options = [row[f"a{index}"] for index in range(4) if row[f"a{index}"]]
        line = {"video": row["video"], "question": row["question"], "options": options, "type": row["type"]}
        lines.append(line | {"answer": row["answer"], "moments": [[[0, 2], [2, 4], [4, 6]][number % 3]]})
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    world = World(folder, {})
    run = world.run(folder / "store")
    sources = run.sources
    assert sources is not None

    def step(name: str, *inputs: Any, **config: Any) -> Any:
        stage = STAGES[name]
        return build(stage, stage.config(**config), run, inputs)

    backbone = step("import_backbone", sources.weights("tiny-blip2"), weights="tiny-blip2")
    questions = step("list_questions", sources.annotations("plain", ""))
    frames = step("sample_frames", sources.videos("plain", questions), frames=8, size=28)
    world.inputs |= {
        "backbone": backbone,
        "questions": questions,
        "frames": frames,
        "features": step("extract_features", frames, backbone),
        "localizer": step("init_localizer", backbone, None),
        "answerer": step("init_answerer", backbone, None),
        "keyframes": step("select_keyframes", questions, frames, None, method="uniform", k=3),
    }
    return world
