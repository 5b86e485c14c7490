"""Seconds a question, the official way against ours: `OMP_NUM_THREADS=2 python -m benchmarks.official`.

The official way is written here from what the official code does (tests/golden/README.md): for every question it decodes the
video, encodes 32 frames, scores each by generating two tokens, chooses 4 and generates three tokens about them, with a cache of
keys and values. Ours are whole runs of the recipe `plain` in a fresh store: the first, one with another prompt of the Localizer,
one with another number of keyframes. Both have the same real video files and random weights, float32 on a CPU; the keyframes and
answers of both are compared. Writes `official.json` and `official.md` to OUT, else to the current folder.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
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
    # Of the real model's arithmetic a question, three fifths are the ViT's; here it is six times T5's.
    "large ViT": replace(
        MEDIUM,
        vision=MEDIUM.vision | {"hidden_size": 768, "intermediate_size": 3072},
        text=MEDIUM.text | {"d_model": 512, "d_ff": 1024, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 8},
    ),
    "real proportions": MEDIUM,
    "tiny": TINY,
}


class OfficialWay:
    """SeViLA as the official code runs it: everything anew for each question. Shapes as in pipeline/models/."""

    def __init__(self, weights: Path) -> None:
        self.config = read_blip2_config(weights)
        self.vision = load_vision_encoder(self.config, weights, torch.float32, "cpu")
        self.words = load_verbalizer(self.config, weights)
        self.language = load_language(self.config, weights, self.words, torch.float32, "cpu")
        self.localizer, self.answerer = (load_visual_prompt(self.config, weights, "blip2", "cpu") for _ in range(2))
        self.scoring_seconds = 0.0

    @torch.no_grad()
    def ask(self, video: Path, question: str, options: list[str]) -> tuple[list[int], int]:
        """Return the numbers of the frames that are chosen, of those that are looked at, and the chosen option's index."""
        side, style = self.config.image_size, PROMPT_STYLES["multiple_choice"]
        reader = decord.VideoReader(str(video), width=side, height=side)
        indices = uniform_indices(len(reader), N_FRAMES, 0, len(reader))
        features = self.vision(pixels(torch.from_numpy(reader.get_batch(indices).asnumpy())))
        asked, started = style.localize(question, options, "necessary_details"), time.perf_counter()
        (step, *_) = self._generated(self.localizer(features).unsqueeze(1), asked, single_frame_prefixes(), n_tokens=2)
        self.scoring_seconds += time.perf_counter() - started
        chosen = np.sort(top_k_positions(step[:, self.words.yes_id].numpy(), K))
        visual = self.answerer(features[torch.from_numpy(chosen)]).unsqueeze(0)
        steps = self._generated(visual, style.answer(question, options), numbered_frame_prefixes(K), n_tokens=3)
        letters = steps[1][0, self.words.letter_ids[: len(options)]]
        return chosen.tolist(), int(letters.argmax())

    def _generated(self, visual: Any, text: str, prefixes: list[str], n_tokens: int) -> Any:
        """Return the logits [R, V] of each of the tokens that are generated."""
        (ids,) = self.words.tokenize([text]).token_ids
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


def operations(config: Any, a_video: int, n_text: int) -> tuple[float, float, float]:
    """Return the floating-point operations of a question: the official way, of our first run and of one with another prompt."""
    seen = config.num_query_tokens + 3
    frames, qformer = N_FRAMES * flops.vit(config), flops.qformer(config)
    encoded = N_FRAMES * flops.t5_encoder(config, seen + n_text)
    answering = flops.answer(config, K * (seen + 2) + n_text, 3)
    generated = N_FRAMES * flops.t5_decoder(config, seen + n_text, 2)
    official = frames + (N_FRAMES + K) * qformer + encoded + generated + answering
    later = (
        N_FRAMES * (qformer / a_video + flops.t5_folded(config, seen + n_text, 1)) + encoded + K * qformer + answering
    )
    return official, later + frames / a_video, later


def _seconds(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a call's result, its seconds by the clock, and the processor's, those of its own processes included."""
    before, started = _processor_seconds(), time.perf_counter()
    result = work()
    return result, time.perf_counter() - started, _processor_seconds() - before


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class TwoVideos:
    """Two real videos with questions, and our runs over them. `asked` is each question's video, text and options."""

    def __init__(self, folder: Path, size: Size, a_video: int) -> None:
        self.folder, self.size = folder, size
        write_data(folder, replace(size, n_videos=2, questions_a_video=a_video))
        for video in (folder / "videos").iterdir():
            make_video(video, n_frames=250, fps=25, size=(320, 240))
        with (folder / "questions.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.asked = [
            (folder / "videos" / f"{row['video']}.mp4", row["question"], [row[f"a{n}"] for n in range(5)])
            for row in rows
        ]

    def run(self, changes: dict[str, Any]) -> sevila.RunTables:
        """Run all of it with some settings changed; what the store holds is used."""
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
    """Ask all questions both ways, and report the seconds of each and what they have in common."""
    asked = world.asked
    official, n_asked = OfficialWay(world.folder.parent / WEIGHTS), len(asked)
    official.ask(*asked[0])  # once for nothing
    official.scoring_seconds = 0.0
    theirs, clock, processor = _seconds(partial(_ask_all, official, asked))
    report.add(
        "official",
        name,
        seconds_a_question=clock / n_asked,
        of_scoring=official.scoring_seconds / n_asked,
        processor_seconds_a_question=processor / n_asked,
    )
    text = PROMPT_STYLES["multiple_choice"].localize(*asked[0][1:], "necessary_details")
    n_text = len(official.words.tokenize([text]).token_ids[0])
    of_official, of_first, of_later = operations(official.config, n_asked // 2, n_text)
    ways: dict[str, tuple[dict[str, Any], float]] = {
        "first run": ({}, of_official / of_first),
        "another prompt": ({"score_frames.instruction": "information_needed"}, of_official / of_later),
        "another k": ({"select_keyframes.k": OTHER_K}, 0.0),
    }
    for way, (changes, limit) in ways.items():
        result, our_clock, our_processor = _seconds(partial(world.run, changes))
        figures: dict[str, Any] = {"seconds_a_question": our_clock / n_asked, "times_as_fast": clock / our_clock}
        figures["times_less_processor"] = processor / our_processor
        if limit:
            scoring = result["score_frames"].record.phase_seconds["score"] / n_asked
            figures |= {"limit_by_operations": limit, "of_scoring": scoring}
        if not changes:
            figures["same_keyframes_and_answer"] = f"{_n_same(result, theirs)} of {n_asked}"
        report.add("ours", f"{name}, {way}", **figures)


def _ask_all(official: OfficialWay, asked: Sequence[tuple[Path, str, list[str]]]) -> list[tuple[list[int], int]]:
    return [official.ask(*each) for each in asked]


def _n_same(run: sevila.RunTables, theirs: list[tuple[list[int], int]]) -> int:
    keyframes = run["select_keyframes"].pandas("keyframes")["positions"]
    answers = run["answer_questions"].pandas("answers")["prediction"]
    ours = zip(map(list, keyframes), answers, strict=True)
    return sum(mine == other for mine, other in zip(ours, theirs, strict=True))


def main() -> None:
    """Measure and write, size by size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=MODELS, default=["large ViT", "real proportions"])
    parser.add_argument("--questions", nargs="+", type=int, default=[1, 8, 16], help="a video [1 8 16]")
    options = parser.parse_args()
    report = Report("official", Path(os.environ.get("OUT", ".")), threads=torch.get_num_threads())
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder, report.part(name):
            write_checkpoint(Path(folder) / WEIGHTS, MODELS[name], "cpu", torch.float32)
            for a_video in options.questions:
                world = TwoVideos(Path(folder) / str(a_video), MODELS[name], a_video)
                measure(world, f"{name}, {a_video} a video", report)
    report.write()


if __name__ == "__main__":
    main()
