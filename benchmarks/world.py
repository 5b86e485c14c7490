"""A data set and a BLIP-2 of any size with random values, for benchmarks without network and decoder.

The videos are files of a few bytes; `draw_frames` writes random frames in place of `sample_frames`. All later stages run
unchanged.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration

from cache.pool import part_rows
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.output import Shard, ShardedOutput
from pipeline.engine.recipe import load
from pipeline.engine.sources import Sources, VideoFiles
from pipeline.engine.stage import RunContext
from stages.all import STAGES
from stages.list_questions import list_questions
from stages.sample_frames import Frames, SampleFrames, sample_frames
from tests.tiny_blip2 import initial_value, write_tokenizer

WEIGHTS = "random-blip2"
SENTENCE = "why did the person in red walk back to table after putting down cup because they were asked sit first"
WORDS = SENTENCE.split()
IN_FLOAT32 = tuple(f"{stage}.precision=float32" for stage in ("extract_features", "score_frames", "answer_questions"))


@dataclass(frozen=True)
class Size:
    """The size of a benchmark: the model's sizes as in `config.json`, and the numbers of videos, frames and questions."""

    vision: dict[str, Any]
    qformer: dict[str, Any]
    text: dict[str, Any]
    n_query_tokens: int
    image_size: int
    n_videos: int
    n_frames: int
    questions_a_video: int


REAL = Size(  # Salesforce/blip2-flan-t5-xl
    vision={"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16},
    qformer={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    text={"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 32}
    | {"vocab_size": 32128},
    n_query_tokens=32,
    image_size=224,
    n_videos=96,
    n_frames=32,
    questions_a_video=4,
)
TINY = Size(
    vision={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    qformer={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    text={"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
    | {"vocab_size": 512},
    n_query_tokens=4,
    image_size=28,
    n_videos=6,
    n_frames=8,
    questions_a_video=2,
)
MEDIUM = Size(  # the real model's proportions, 21 GFLOP per frame for the ViT and 14 for T5: minutes on a CPU
    vision={"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8},
    qformer={"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
    text={"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 9, "num_decoder_layers": 9, "num_heads": 12}
    | {"vocab_size": 32128},
    n_query_tokens=32,
    image_size=224,
    n_videos=4,
    n_frames=16,
    questions_a_video=4,
)
SIZES = {"real": REAL, "medium": MEDIUM, "tiny": TINY}


def write_checkpoint(folder: Path, size: Size, device: str, dtype: torch.dtype) -> int:
    """Write a BLIP-2 with random weights in Hugging Face's layout, and return its size in bytes."""
    folder.mkdir(parents=True)
    write_tokenizer(folder / "tokenizer.json", WORDS)
    vision = {**size.vision, "image_size": size.image_size, "patch_size": 14}
    qformer = {**size.qformer, "encoder_hidden_size": size.vision["hidden_size"]}
    text = {**size.text, "model_type": "t5", "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
    text["tie_word_embeddings"] = False
    config = Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=size.n_query_tokens
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config)
    generator = torch.Generator(device).manual_seed(0)
    shapes = {name: value.shape for name, value in model.named_parameters()}
    head = "language_model.lm_head.weight"
    shapes[head] = shapes.get(head, model.language_model.shared.weight.shape)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        noise = torch.randn(shape, generator=generator, device=device)
        value = initial_value(name, noise)
        if name.endswith("Attention.q.weight"):
            # T5 does not scale attention scores; without this, attention is one-hot.
            value /= size.text["d_kv"] ** 0.5
        tensors[name] = value.to(dtype).cpu()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return (folder / "model.safetensors").stat().st_size


def write_data(folder: Path, size: Size) -> None:
    """Write `questions.csv`, and `videos/` with distinct files of a few bytes."""
    rng = np.random.default_rng(0)
    (folder / "videos").mkdir(parents=True)
    rows = []
    for video in range(size.n_videos):
        (folder / "videos" / f"{video:05d}.mp4").write_bytes(f"not a video: {video}".encode())
        for _ in range(size.questions_a_video):
            options = [" ".join(rng.choice(WORDS, 6)) for _ in range(5)]
            row = {"video": f"{video:05d}", "question": " ".join(rng.choice(WORDS, rng.integers(6, 14))) + "?"}
            row |= {f"a{number}": option for number, option in enumerate(options)}
            rows.append(row | {"answer": options[rng.integers(5)], "split": "train"})
    with (folder / "questions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_questions(folder: Path, videos: Iterable[str], questions: Sequence[str] = ("What is seen?",)) -> None:
    """Write `questions.csv` with these questions for each of the videos."""
    rows = [[video, question, "a", "b", "a"] for video in videos for question in questions]
    with (folder / "questions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["video", "question", "a0", "a1", "answer"], *rows])


def places_of(folder: Path, weights: Path) -> dict[str, str]:
    """Return the paths of the data in a folder and of weights, by kind of place."""
    places = {"annotations": str(folder / "questions.csv"), "videos": str(folder / "videos")}
    return {**places, "weights": f"{WEIGHTS}={weights}"}


def command(
    words: Sequence[str],
    folder: Path,
    weights: Path,
    settings: Iterable[str],
    store: str = "store",
    device: str = "cpu",
) -> list[str]:
    """Return a `sevila` command that runs the recipe `plain` on the data in a folder."""
    places = {**places_of(folder, weights), "store": str(folder / store), "device": device}
    options = [word for option, value in places.items() for word in (f"--{option}", value)]
    changes = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "sevila", words[0], "plain", *words[1:], *options, *changes, "--quiet"]


def draw_videos(folder: Path, weights: Path, settings: Iterable[str]) -> Store:
    """Build the lists of questions and random frames, so that commands reuse both; return the store."""
    store = Store(folder / "store")
    sources = Sources(store.digests, {kind: [place] for kind, place in places_of(folder, weights).items()})
    run, recipe = RunContext(store, device="cpu", sources=sources), load("plain", STAGES, settings)
    questions = build(list_questions, recipe.config(list_questions), run, [sources.annotations("plain", "train")])
    drawn = replace(sample_frames, function=draw_frames)
    build(drawn, recipe.config(sample_frames), run, [sources.videos("plain", questions)])
    return store


def draw_frames(cfg: SampleFrames, run: RunContext, videos: VideoFiles, *, out: ShardedOutput) -> None:
    """Replace `sample_frames`: write the same artifact with random frames instead of decoded ones."""
    pool = out.pool(config=cfg.model_dump(), drawn=True)
    indices = list(range(0, cfg.frames * 8, 8))

    def work(shard: Shard) -> None:
        tables: dict[str, list[dict[str, Any]]] = {"videos": [], "frames": [], "parts": []}
        for item in shard.items:
            video = videos.videos[item]
            assert video.digest is not None
            if not pool.parts(video.digest):
                publish = pool.write(video.digest, indices, (cfg.size, cfg.size, 3), "uint8", _frames(cfg, item), {})
                publish()
            row: dict[str, Any] = dict.fromkeys(Frames.tables["videos"].columns)
            row |= {"video_id": video.video_id, "status": "ok", "reason": "", "note": "", "decoder": "drawn"}
            row |= {"codec": "none", "n_frames_in_video": cfg.frames * 8, "frames_per_second": 8.0, "width": cfg.size}
            row |= {"duration_seconds": float(cfg.frames), "height": cfg.size, "n_frames": cfg.frames}
            tables["videos"].append(row | {"content_digest": video.digest})
            for clip_id, *_ in video.clips:
                clip = {"clip_id": clip_id, "video_id": video.video_id}
                tables["frames"] += [
                    clip | {"position": row, "frame_index": index, "seconds": index / 8, "row": row}
                    for row, index in enumerate(indices)
                ]
            tables["parts"] += part_rows(video.video_id, indices, pool.parts(video.digest)[:1])
        for name, rows in tables.items():
            shard.write_rows(name, rows)

    out.each_shard(work)


def _frames(cfg: SampleFrames, number: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (cfg.frames, cfg.size // 14, cfg.size // 14, 3), np.uint8)
    yield coarse.repeat(14, axis=1).repeat(14, axis=2)
