"""Seconds per question of the official procedure and of the pipeline: `OMP_NUM_THREADS=2 python -m benchmarks.official`.

The official procedure is reimplemented here (tests/golden/README.md): for each question it decodes the video, encodes 32 frames,
scores each by generating two tokens, selects 4, and generates three tokens from these, with a key/value cache. The pipeline's
are complete runs of the recipe `plain` in a fresh store: the first, one with another prompt of the Localizer, one with another
number of keyframes. Both use the same real video files and random weights, float32 on a CPU, and their keyframes and answers are
compared. Writes `official.json` and `official.md` to OUT, by default the current folder.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import decord
import numpy as np
import torch

import sevila
from benchmarks import flops
from benchmarks.report import Report
from benchmarks.timing import processor_seconds
from benchmarks.world import MEDIUM, TINY, WEIGHTS, Size, write_checkpoint, write_data
from pipeline.models.checkpoint import load_language, load_verbalizer, load_vision_encoder, load_visual_prompt
from pipeline.models.config import read_blip2_config
from pipeline.models.prompts import PROMPT_STYLES, numbered_frame_prefixes, single_frame_prefixes
from pipeline.models.vision import pixels
from pipeline.selection.top_k import top_k_positions
from pipeline.video.frames import uniform_indices
from tests.videos import make_video

K, OTHER_K, N_FRAMES = 4, 2, 32
MODELS = {
    # The ViT takes three fifths of the real model's operations per question; here it takes six times those of T5.
    "large ViT": replace(
        MEDIUM,
        vision=MEDIUM.vision | {"hidden_size": 768, "intermediate_size": 3072},
        text=MEDIUM.text | {"d_model": 512, "d_ff": 1024, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 8},
    ),
    "real proportions": MEDIUM,
    "tiny": TINY,
}


class OfficialWay:
    """SeViLA as in the official code, without reuse between questions. Shapes as in pipeline/models/."""

    def __init__(self, weights: Path) -> None:
        self.config = read_blip2_config(weights)
        self.vision = load_vision_encoder(self.config, weights, torch.float32, "cpu")
        self.verbalizer = load_verbalizer(self.config, weights)
        self.language = load_language(self.config, weights, self.verbalizer, torch.float32, "cpu")
        self.localizer, self.answerer = (load_visual_prompt(self.config, weights, "blip2", "cpu") for _ in range(2))
        self.scoring_seconds = 0.0

    @torch.no_grad()
    def ask(self, video: Path, question: str, options: list[str]) -> tuple[list[int], int]:
        """Return the positions of the keyframes among the sampled frames, and the index of the chosen option."""
        size, style = self.config.image_size, PROMPT_STYLES["multiple_choice"]
        reader = decord.VideoReader(str(video), width=size, height=size)
        indices = uniform_indices(len(reader), N_FRAMES, 0, len(reader))
        features = self.vision(pixels(torch.from_numpy(reader.get_batch(indices).asnumpy())))
        prompt, started = style.localize(question, options, "necessary_details"), time.perf_counter()
        (step, *_) = self._generated(self.localizer(features).unsqueeze(1), prompt, single_frame_prefixes(), n_tokens=2)
        self.scoring_seconds += time.perf_counter() - started
        chosen = np.sort(top_k_positions(step[:, self.verbalizer.yes_id].numpy(), K))
        visual = self.answerer(features[torch.from_numpy(chosen)]).unsqueeze(0)
        steps = self._generated(visual, style.answer(question, options), numbered_frame_prefixes(K), n_tokens=3)
        letters = steps[1][0, self.verbalizer.letter_ids[: len(options)]]
        return chosen.tolist(), int(letters.argmax())

    def _generated(self, visual: Any, text: str, prefixes: list[str], n_tokens: int) -> Any:
        """Return the logits [R, V] of each generated token."""
        (ids,) = self.verbalizer.tokenize([text]).token_ids
        inputs = self.language.assemble(prefixes, visual, [ids] * len(visual))
        return self.language.model.generate(
            inputs_embeds=inputs.embeddings,
            attention_mask=inputs.mask,
            max_new_tokens=n_tokens,
            min_new_tokens=n_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        ).logits


def operations(config: Any, per_video: int, n_text: int) -> tuple[float, float, float]:
    """Return the operations per question of the official procedure, of a first run, and of a run with another prompt.

    Args:
        per_video: questions per video.
        n_text: tokens of a question's prompt.
    """
    frame_tokens = config.num_query_tokens + 3
    frames, qformer = N_FRAMES * flops.vit(config), flops.qformer(config)
    encoding = N_FRAMES * flops.t5_encoder(config, frame_tokens + n_text)
    answering = flops.answer(config, K * (frame_tokens + 2) + n_text, 3)
    generation = N_FRAMES * flops.t5_decoder(config, frame_tokens + n_text, 2)
    official = frames + (N_FRAMES + K) * qformer + encoding + generation + answering
    scoring = N_FRAMES * (qformer / per_video + flops.t5_folded(config, frame_tokens + n_text, 1))
    later = scoring + encoding + K * qformer + answering
    return official, later + frames / per_video, later


def _seconds(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a call's result, its wall seconds, and its processor seconds, child processes included."""
    before, started = processor_seconds(), time.perf_counter()
    result = work()
    return result, time.perf_counter() - started, processor_seconds() - before


class TwoVideos:
    """Two real videos with questions, and runs over them. `questions` holds each question's video, text and options."""

    def __init__(self, folder: Path, size: Size, per_video: int) -> None:
        self.folder, self.size = folder, size
        write_data(folder, replace(size, n_videos=2, questions_a_video=per_video))
        for video in (folder / "videos").iterdir():
            make_video(video, n_frames=250, fps=25, size=(320, 240))
        with (folder / "questions.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.questions = [
            (folder / "videos" / f"{row['video']}.mp4", row["question"], [row[f"a{n}"] for n in range(5)])
            for row in rows
        ]

    def run(self, changes: dict[str, Any]) -> sevila.RunTables:
        """Run the recipe with some settings changed, reusing artifacts in the store."""
        settings: dict[str, Any] = {"sample_frames.size": self.size.image_size, "list_questions.split": "train"}
        settings |= {
            f"{stage}.precision": "float32" for stage in ("extract_features", "score_frames", "answer_questions")
        }
        return sevila.load(
            "plain",
            settings=settings | {"import_backbone.weights": WEIGHTS} | changes,
            annotations=self.folder / "questions.csv",
            videos=self.folder / "videos",
            weights={WEIGHTS: self.folder.parent / WEIGHTS},
            store=self.folder / "store",
            device="cpu",
        ).run()


def measure(world: TwoVideos, name: str, report: Report) -> None:
    """Answer all questions by both procedures, and report their seconds and how many results are equal."""
    questions, n_questions = world.questions, len(world.questions)
    official = OfficialWay(world.folder.parent / WEIGHTS)
    official.ask(*questions[0])  # warm-up
    official.scoring_seconds = 0.0
    choices, wall, processor = _seconds(lambda: [official.ask(*question) for question in questions])
    report.add(
        "official",
        name,
        seconds_a_question=wall / n_questions,
        of_scoring=official.scoring_seconds / n_questions,
        processor_seconds_a_question=processor / n_questions,
    )
    text = PROMPT_STYLES["multiple_choice"].localize(*questions[0][1:], "necessary_details")
    n_text = len(official.verbalizer.tokenize([text]).token_ids[0])
    official_operations, first, later = operations(official.config, n_questions // 2, n_text)
    runs: dict[str, tuple[dict[str, Any], float]] = {
        "first run": ({}, official_operations / first),
        "another prompt": ({"score_frames.instruction": "information_needed"}, official_operations / later),
        "another k": ({"select_keyframes.k": OTHER_K}, 0.0),
    }
    for run, (changes, limit) in runs.items():
        result, run_wall, run_processor = _seconds(partial(world.run, changes))
        figures: dict[str, Any] = {"seconds_a_question": run_wall / n_questions, "times_as_fast": wall / run_wall}
        figures["times_less_processor"] = processor / run_processor
        if limit:
            scoring = result["score_frames"].record.phase_seconds["score"] / n_questions
            figures |= {"limit_by_operations": limit, "of_scoring": scoring}
        if not changes:
            figures["same_keyframes_and_answer"] = f"{_n_equal(result, choices)} of {n_questions}"
        report.add("ours", f"{name}, {run}", **figures)


def _n_equal(run: sevila.RunTables, official: list[tuple[list[int], int]]) -> int:
    keyframes = run["select_keyframes"].pandas("keyframes")["positions"]
    answers = run["answer_questions"].pandas("answers")["prediction"]
    ours = zip(map(list, keyframes), answers, strict=True)
    return sum(own == other for own, other in zip(ours, official, strict=True))


def main() -> None:
    """Measure and write all sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=MODELS, default=["large ViT", "real proportions"])
    parser.add_argument("--questions", nargs="+", type=int, default=[1, 8, 16], help="per video [1 8 16]")
    options = parser.parse_args()
    report = Report("official")
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder, report.part(name):
            write_checkpoint(Path(folder) / WEIGHTS, MODELS[name], "cpu", torch.float32)
            for per_video in options.questions:
                world = TwoVideos(Path(folder) / str(per_video), MODELS[name], per_video)
                measure(world, f"{name}, {per_video} a video", report)
    report.write()


if __name__ == "__main__":
    main()
