"""Rendered videos with known moments, their features in a store, and every training stage on them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.output import Output
from pipeline.engine.sources import Sources
from pipeline.engine.stage import Config, RunContext, Stage
from pipeline.inference.visual_prompt_weights import FILE
from pipeline.models.prompts import PROMPT_STYLES
from pipeline.reasons import Reason
from pipeline.training.answerer_training import AnsweredQuestion
from stages.all import STAGES
from stages.label_frames import PseudoLabels, Verdict
from tests.small_world import write_small_world
from tests.stages.runs import json_rows

INPUTS = {
    "pretrain_localizer": ("questions", "frames", "features", "backbone", "localizer"),
    "refine_localizer": ("questions", "frames", "features", "backbone", "localizer", "labels"),
    "finetune_answerer": ("questions", "keyframes", "features", "backbone", "answerer"),
}
SELECTOR_INPUTS = {"train_selector": ("questions", "frames", "features", "backbone", "answerer")}
# Two epochs over the three questions of each of the demo's eight readable videos.
FEW_STEPS = {"epochs": 2, "batch_size": 9, "warmup_steps": 1, "learning_rate": 1e-3}


@dataclass
class World:
    """A folder of videos, questions and weights, and the artifacts that training stages read."""

    folder: Path
    inputs: dict[str, Any]

    def run(self, store: Path, **changes: Any) -> RunContext:
        places = {"annotations": [str(self.folder / "questions.jsonl")], "videos": [str(self.folder / "videos")]}
        places["weights"] = [f"tiny-blip2={self.folder / 'tiny-blip2'}"]
        cache = Store(store)
        return RunContext(cache, device="cpu", sources=Sources(cache.digests, places), **changes)

    def train(self, name: str, store: Path, run: dict[str, Any] | None = None, **config: Any) -> Any:
        """Run a training stage into `store`; its inputs stay in the world's own store."""
        stage = STAGES[name]
        inputs = [self.inputs[key] for key in (INPUTS | SELECTOR_INPUTS)[name]]
        return build(stage, stage.config(**{**FEW_STEPS, **config}), self.run(store, **(run or {})), inputs)

    def answered(self, keyframes: dict[str, Any]) -> AnsweredQuestion:
        """Return the question of a row of Keyframes as the Answerer trains on it."""
        questions = {row["question_id"]: row for row in self.inputs["questions"].rows("questions")}
        row = questions[keyframes["question_id"]]
        text = PROMPT_STYLES["multiple_choice"].answer(row["question"], row["options"])
        ids, frame_rows = (row["question_id"], row["video_id"]), tuple(keyframes["rows"])
        return AnsweredQuestion(*ids, text, frame_rows, len(row["options"]), row["answer_index"])


def weights_of(trained: Any) -> bytes:
    return Path(trained.path / FILE).read_bytes()


def make_world(
    folder: Path, videos: int = 10, moments: bool = True, answers: int = 30, dropout: float = 0.1, language: str = "t5"
) -> World:
    """Render the demo's videos (the last two of its ten cannot be read) and build the inputs of training stages.

    The moments of each video's three questions are its first, second and last two seconds.

    Args:
        videos: number of videos with questions.
        answers: number of questions with a known answer.
        dropout: rate of the Q-Former.
        language: kind of BLIP-2's language model.
    """
    write_small_world(folder, language=language)
    rows = json_rows(folder)[: 3 * videos]
    (folder / "questions.csv").unlink()
    for number, row in enumerate(rows):
        if number >= answers:
            del row["answer"]
        if moments:
            row["moments"] = [[[0, 2], [2, 4], [4, 6]][number % 3]]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _set_dropout(folder / "tiny-blip2" / "config.json", dropout)
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
        "features": step("extract_features", frames, backbone, None, None),
        "localizer": step("init_localizer", backbone, None),
        "answerer": step("init_answerer", backbone, None),
        "keyframes": step("select_keyframes", questions, frames, None, None, method="uniform", k=3),
        "labels": build(LABEL_EVERY_OTHER_FRAME, Config(), run, [questions, frames]),
    }
    return world


def _set_dropout(path: Path, dropout: float) -> None:
    config = json.loads(path.read_text())
    config["qformer_config"] |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    path.write_text(json.dumps(config))


def _label_every_other_frame(cfg: Config, run: RunContext, questions: Any, frames: Any, *, out: Output) -> None:
    """Write labels that depend on no model."""
    clips, rows, verdicts = frames.clips(), [], []
    for question in questions.rows("questions"):
        clip = clips.get((question["video_id"], question["clip_id"]))
        n_frames = 0 if clip is None else len(clip["row"])
        reason = Reason("" if n_frames else "unreadable: not a video")
        ids = question["question_id"], question["video_id"]
        verdicts.append(Verdict(*ids, "failed" if reason else "ok", reason, n_frames, n_yes=(n_frames + 1) // 2))
        for position in range(n_frames):
            row = {"question_id": question["question_id"], "video_id": question["video_id"], "position": position}
            row |= {"frame_index": int(clip["frame_index"][position]), "seconds": float(clip["seconds"][position])}
            rows.append(row | {"label": position % 2 == 0, "prediction": 0, "option_logits": [], "truncated": False})
    out.write_rows("pseudo_labels", rows)
    out.write_rows("verdicts", verdicts)


# Not declared by @stage, so recipes and commands do not list it.
LABEL_EVERY_OTHER_FRAME = Stage(
    "label_every_other_frame", 1, PseudoLabels, Config, ("questions", "frames"), _label_every_other_frame
)
