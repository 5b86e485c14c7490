"""GPU benchmark at the real sizes with random weights, in minutes: rates, utilisation, idle time, memory, equality.

    python -m benchmarks.gpu                                # on a GPU
    python -m benchmarks.gpu --size tiny --device cpu       # the same code in a minute

Writes `gpu.json` and `gpu.md` to the folder in the environment variable OUT, by default the current one. Needs no network,
Prefect or decoder, as frames are random (benchmarks/world.py). Utilisation is relative to the card's measured matrix product.
"""

from __future__ import annotations

import argparse
import gc
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import flops
from benchmarks.model_rates import equality, language_rates, matmul_rates, transfer_rates, vision_rates
from benchmarks.parity import TOLERANCE, parity
from benchmarks.report import Report
from benchmarks.timing import synchronize, watched
from benchmarks.world import (
    SIZES,
    WEIGHTS,
    Size,
    command,
    draw_frames,
    draw_videos,
    places_of,
    write_checkpoint,
    write_data,
)
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.recipe import Recipe, load
from pipeline.engine.sources import Sources
from pipeline.engine.stage import RunContext, Stage
from pipeline.models.prompts import PROMPT_STYLES
from pipeline.precision import EIGHT_BITS
from stages.all import STAGES
from stages.answer_questions import answer_questions
from stages.evaluate import evaluate
from stages.extract_features import extract_features
from stages.finetune_answerer import finetune_answerer
from stages.import_backbone import import_backbone
from stages.init_answerer import init_answerer
from stages.init_localizer import init_localizer
from stages.label_frames import label_frames
from stages.list_questions import list_questions
from stages.refine_localizer import refine_localizer
from stages.sample_frames import sample_frames
from stages.score_frames import score_frames
from stages.select_keyframes import select_keyframes

MEASUREMENTS = ("hardware", "parity", "stages", "memory", "model", "equality", "command", "compiled")
TRAININGS = ("refine_localizer", "finetune_answerer")
SETTINGS = [
    "list_questions.split=train",
    f"import_backbone.weights={WEIGHTS}",
    *(f"{stage}.{key}" for stage in TRAININGS for key in ("epochs=1", "warmup_steps=1", "held_out_percent=0")),
]


class Bench:
    """Data and weights on disk, a store, and steps that are measured while they run."""

    def __init__(self, size: Size, device: str, folder: Path, report: Report) -> None:
        self.size, self.device, self.folder, self.report = size, device, folder, report
        self.matmul: dict[str, float] = {}
        dtype = torch.bfloat16
        start = time.perf_counter()
        size_bytes = write_checkpoint(folder / WEIGHTS, size, device, dtype)
        report.add(
            "world",
            f"random weights of {folder.name}" if folder.name == "tiny" else "random weights",
            gigabytes=size_bytes / 1e9,
            seconds=time.perf_counter() - start,
        )
        write_data(folder, size)
        store = Store(folder / "store")
        places = places_of(folder, folder / WEIGHTS)
        self.sources = Sources(store.digests, {kind: [place] for kind, place in places.items()})
        self.run = RunContext(store, device=device, sources=self.sources)
        self.recipe: Recipe = load("plain", STAGES, self.settings())
        self.artifacts: dict[str, Any] = {}

    def settings(self) -> list[str]:
        """Return the recipe's settings for this size."""
        small = [f"sample_frames.frames={self.size.n_frames}", f"sample_frames.size={self.size.image_size}"]
        if self.device == "cpu":
            with_model = ("extract_features", "score_frames", "answer_questions", "label_frames", *TRAININGS)
            small += [f"{stage}.precision=float32" for stage in with_model]
        return [*SETTINGS, *small]

    def step(
        self, stage: Stage, *inputs: Any, rows: int = 0, operations: float = 0.0, unit: str = "rows", **changes: Any
    ) -> Any:
        """Build the artifact of a step, report its cost, and return it.

        Args:
            rows: number of `unit` that it computes, each with this number of floating-point `operations`.
            changes: keys of the stage's config.
        """
        cfg = self.recipe.config(stage, **changes)
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        with watched(self.device) as busy:
            artifact = build(stage, cfg, self.run, inputs)
        seconds = busy.span_seconds or busy.seconds
        figures: dict[str, Any] = {"seconds": busy.seconds}
        if rows:
            precision = getattr(cfg, "precision", "float32")
            figures |= {f"{unit}_per_second": rows / seconds, "precision": precision}
            if precision in self.matmul:
                figures["percent_of_matmul"] = 100 * rows * operations / seconds / self.matmul[precision]
        if self.device != "cpu" and rows:
            figures |= {"seconds_first_to_last_kernel": seconds, "waiting_percent": busy.waiting_percent}
            figures |= {"copy_seconds": busy.copy_seconds, "peak_gb": torch.cuda.max_memory_allocated() / 1e9}
        figures["phases"] = artifact.record.phase_seconds
        self.report.add("stages", _name(stage, changes), **figures)
        self.report.kernels(_name(stage, changes), busy)
        return artifact


def _name(stage: Stage, changes: dict[str, Any]) -> str:
    return stage.name + "".join(f" {key}={value}" for key, value in changes.items())


def run_stages(bench: Bench) -> None:
    """Build all artifacts of inference, labelling and both trainings, as a run does."""
    size, artifacts = bench.size, bench.artifacts
    questions = artifacts["questions"] = bench.step(list_questions, bench.sources.annotations("plain", "train"))
    backbone = artifacts["backbone"] = bench.step(import_backbone, bench.sources.weights(WEIGHTS))
    localizer = artifacts["localizer"] = bench.step(init_localizer, backbone, None)
    answerer = artifacts["answerer"] = bench.step(init_answerer, backbone, None)
    drawn = replace(sample_frames, function=draw_frames)
    frames = artifacts["frames"] = bench.step(drawn, bench.sources.videos("plain", questions))
    config = artifacts["config"] = backbone.config(bench.run)
    step = partial(bench.step, extract_features, frames, backbone, None, None)
    n_frames = size.n_videos * size.n_frames
    features = artifacts["features"] = step(rows=n_frames, operations=flops.vit(config), unit="frames")
    read = (questions, frames, features, backbone)
    n_questions = size.n_videos * size.questions_a_video
    n_pairs = n_questions * size.n_frames
    # A frame: its visual tokens and "Frame: "; then a text about as long as a question of NExT-QA.
    lengths = [len(ids) for ids in _tokens(bench, questions, backbone)]
    frame_tokens = config.num_query_tokens + 3
    visual = flops.qformer(config) / size.questions_a_video
    answer = partial(flops.mean_answer, config, lengths)
    pair = answer(frame_tokens, 1) + visual
    score = partial(bench.step, score_frames, *read, localizer, rows=n_pairs, operations=pair, unit="pairs")
    scores = score()
    for precision in EIGHT_BITS:
        score(precision=precision)
    keyframes = artifacts["keyframes"] = bench.step(select_keyframes, questions, frames, scores, None)
    k = bench.recipe.config(select_keyframes).k
    question = answer(k * (frame_tokens + 2), 2) + k * flops.qformer(config)
    answer_inputs = (questions, keyframes, features, backbone, answerer)
    answers = bench.step(answer_questions, *answer_inputs, rows=n_questions, operations=question, unit="questions")
    bench.step(evaluate, questions, answers)
    label = answer(frame_tokens, 2) + visual
    labels = bench.step(label_frames, *read, answerer, rows=n_pairs, operations=label, unit="pairs")
    # The backward pass costs one forward pass in the frozen T5, and two in the trained Q-Former.
    per_question = bench.recipe.config(refine_localizer).frames_per_question
    refinement = per_question * (2 * answer(frame_tokens, 2) + 3 * flops.qformer(config))
    bench.step(refine_localizer, *read, localizer, labels, rows=n_questions, operations=refinement, unit="questions")
    tuning = 2 * answer(k * (frame_tokens + 2), 3) + 3 * k * flops.qformer(config)
    bench.step(finetune_answerer, *answer_inputs, rows=n_questions, operations=tuning, unit="questions")


def _tokens(bench: Bench, questions: Any, backbone: Any) -> list[list[int]]:
    localize = PROMPT_STYLES["multiple_choice"].localize
    texts = [localize(row["question"], row["options"], "necessary_details") for row in questions.rows("questions")]
    ids: list[list[int]] = backbone.verbalizer(bench.run).tokenize(texts).token_ids
    return ids


def run_out_of_memory(bench: Bench) -> None:
    """Score with batches that exceed the GPU's free memory: they must be halved, and the stage must succeed."""
    if bench.device == "cpu":
        return bench.report.add("memory", "out of memory", note="skipped: a CPU's memory cannot be limited")
    artifacts, run = bench.artifacts, bench.run
    gc.collect()
    torch.cuda.empty_cache()
    language = artifacts["backbone"].language(run, bench.recipe.config(score_frames).precision)
    needed = torch.cuda.memory_allocated() + (5 << 29)  # enough for the Q-Former and smaller batches, not for one batch
    del language
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, needed / torch.cuda.get_device_properties(0).total_memory))
    warnings = BufferingHandler(capacity=1 << 20)
    warnings.setLevel(logging.WARNING)
    logging.getLogger("sevila").addHandler(warnings)
    try:
        bench.run = replace(run, batch_tokens=1 << 19)
        read = [artifacts[name] for name in ("questions", "frames", "features", "backbone", "localizer")]
        scores = bench.step(score_frames, *read, instruction="information_needed")
        finite = bool(np.isfinite(scores.columns("frame_scores", "logit_yes")["logit_yes"]).all())
        texts = [record.getMessage() for record in warnings.buffer]
        last = texts[-1] if texts else "no warning"
        halved = sum("out of memory" in text for text in texts)
        bench.report.add("memory", "score_frames, 524,288 tokens per batch", halved=halved, finite=finite, last=last)
    finally:
        bench.run = run
        logging.getLogger("sevila").removeHandler(warnings)
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def measure_command_line(bench: Bench) -> None:
    """Run the chain of a tiny model by the command line, in a separate process."""
    folder = bench.folder / "tiny"
    tiny = Bench(SIZES["tiny"], bench.device, folder, bench.report)
    draw_videos(folder, folder / WEIGHTS, tiny.settings())
    for row in ("first run", "all made"):
        start = time.perf_counter()
        words = command(["run"], folder, folder / WEIGHTS, tiny.settings(), device=bench.device)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
        bench.report.add("command", row, status=done.returncode, seconds=time.perf_counter() - start, last_line=last)


def run_parity(bench: Bench) -> None:
    """Compare the results on the device with the official code's."""
    for precision in TOLERANCE:
        bench.report.add("parity", precision, **parity(precision, bench.device))


def run_hardware(bench: Bench) -> None:
    """Measure the machine's own rates, to which the others are compared."""
    bench.matmul = matmul_rates(bench.device, 8192 if bench.size is SIZES["real"] else 256, bench.report)
    transfer_rates(bench.device, bench.report)


def run_model(bench: Bench) -> None:
    """Measure ViT and Flan-T5 alone, with inputs in the device's memory."""
    vision_rates(bench)
    for precision in ("", *EIGHT_BITS):
        language_rates(bench, precision=precision)


def run_compiled(bench: Bench) -> None:
    """Measure the same with compiled blocks."""
    vision_rates(bench, compiled=True)
    language_rates(bench, compiled=True)


def main() -> None:
    """Measure and write all parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="real")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS, help="parts to measure [all]")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    card = {"card": torch.cuda.get_device_name()} if options.device != "cpu" else {}
    report = Report("gpu", **card, size=options.size)
    parts: dict[str, Callable[[Bench], None]] = {
        "hardware": run_hardware,
        "parity": run_parity,
        "stages": run_stages,
        "memory": run_out_of_memory,
        "model": run_model,
        "equality": equality,
        "command": measure_command_line,
        "compiled": run_compiled,
    }
    with tempfile.TemporaryDirectory() as folder, report.part("all"):
        bench = Bench(SIZES[options.size], options.device, Path(folder), report)
        for name in options.only:
            with report.part(name):
                parts[name](bench)
            synchronize(options.device)
    report.write()


if __name__ == "__main__":
    main()
