"""Rates of the machine and of the model's parts alone, to which the stages are compared."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks import flops
from benchmarks.timing import median_seconds, watched
from pipeline.models.eight_bits import EIGHT_BIT_DTYPES, product
from pipeline.models.prompts import single_frame_prefixes
from pipeline.precision import EIGHT_BITS

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.gpu import Bench
    from benchmarks.report import Report
    from pipeline.models.localizer import Localizer

    _Choices = tuple[
        np.ndarray, np.ndarray, np.ndarray
    ]  # scores of all frames, keyframes, answers: one row per question

N_TEXT_TOKENS = 56  # of a question of NExT-QA with its options
PRECISIONS = ("float16", "bfloat16", "float32")


def matmul_rates(device: str, side: int, report: Report) -> dict[str, float]:
    """Return the operations per second of a square matrix product of random data, by precision; 8-bit ones include scaling."""
    rates = {}
    for precision in PRECISIONS:
        a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, precision)) for _ in range(2))
        rates[precision] = 2 * side**3 / median_seconds(partial(torch.matmul, a, b), device)
    for precision in EIGHT_BITS:
        a, b = ((40 * torch.randn(side, side, device=device)).to(EIGHT_BIT_DTYPES[precision]) for _ in range(2))
        scales = torch.ones(side, 1, device=device)
        rates[precision] = 2 * side**3 / median_seconds(partial(product, a, scales, b, scales.T), device)
    for precision, rate in rates.items():
        report.add("hardware", f"matrix product of {side}, {precision}", teraflop_per_second=rate / 1e12)
    report.add("hardware", "float32 products", tf32_allowed=torch.backends.cuda.matmul.allow_tf32)
    return rates


def transfer_rates(device: str, report: Report, size_bytes: int = 1 << 28) -> None:
    """Report the copy rates to and from the device, for pageable and pinned memory."""
    if device == "cpu":
        return
    on_device = torch.empty(size_bytes, dtype=torch.uint8, device=device)
    for name, host in (
        ("pageable", torch.zeros(size_bytes, dtype=torch.uint8)),
        ("pinned", torch.zeros(size_bytes, dtype=torch.uint8).pin_memory()),
    ):
        up = median_seconds(partial(on_device.copy_, host, non_blocking=True), device)
        down = median_seconds(partial(host.copy_, on_device, non_blocking=True), device)
        rates = {"to_device_gb_per_second": size_bytes / up / 1e9, "back_gb_per_second": size_bytes / down / 1e9}
        report.add("hardware", f"copies, {name}", **rates)


def _report(bench: Bench, row: str, n_rows: int, operations: float, precision: str, work: Any, unit: str) -> None:
    seconds = median_seconds(work, bench.device, 3)
    figures: dict[str, Any] = {f"{unit}_per_second": n_rows / seconds}
    if precision in bench.matmul:
        figures["percent_of_matmul"] = 100 * n_rows * operations / seconds / bench.matmul[precision]
    if bench.device != "cpu":
        figures["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    bench.report.add("model", row, **figures)


def vision_rates(bench: Bench, compiled: bool = False) -> None:
    """Report the ViT's frames per second at several batch sizes, optionally with compiled blocks."""
    config, device = bench.artifacts["config"], bench.device
    precision = bench.recipe.config_of("extract_features").precision
    start = time.perf_counter()
    encoder = bench.artifacts["backbone"].vision_encoder(bench.run, precision)
    bench.report.add("model", "ViT loaded", seconds=time.perf_counter() - start)
    batches = (16, 63, 128, 256) if device != "cpu" else (4,)
    pixels = torch.randn(max(batches), 3, config.image_size, config.image_size, device=device)
    with torch.no_grad():
        if compiled:
            for number, layer in enumerate(encoder.encoder.layers):
                encoder.encoder.layers[number] = torch.compile(layer)
            start = time.perf_counter()
            encoder(pixels[: batches[-1]])
            bench.report.add("model", "ViT compiled", seconds=time.perf_counter() - start)
        for n in batches[-2:] if compiled else batches:
            name = f"ViT {precision}, {n} frames{', compiled' * compiled}"
            work = partial(encoder, pixels[:n])
            _report(bench, name, n, flops.vit(config), precision, work, "frames")
        with watched(device) as busy:
            encoder(pixels)
        bench.report.kernels(f"ViT{', compiled' * compiled}", busy)


def language_rates(bench: Bench, compiled: bool = False, precision: str = "") -> None:
    """Report the Localizer's pairs per second at several batch sizes, with compiled T5 blocks or part by part.

    Args:
        precision: of the language model; empty: the recipe's.
    """
    from pipeline.models.localizer import Localizer

    artifacts, config, device = bench.artifacts, bench.artifacts["config"], bench.device
    precision = precision or bench.recipe.config_of("score_frames").precision
    start = time.perf_counter()
    language = artifacts["backbone"].language(bench.run, precision)
    bench.report.add("model", f"Flan-T5 loaded in {precision}", seconds=time.perf_counter() - start)
    localizer = Localizer(artifacts["localizer"].load(bench.run, artifacts["backbone"], precision), language)
    seen = config.num_query_tokens + 3 + N_TEXT_TOKENS
    budgets = (8192, 16384, 32768, 65536) if device != "cpu" else (1024,)
    if compiled:
        for stack in (language.model.encoder, language.model.decoder):
            for number, block in enumerate(stack.block):
                stack.block[number] = torch.compile(block, dynamic=True)
    for budget in (budgets[1:3] or budgets) if compiled else budgets:
        n = budget // seen
        visual = torch.randn(n, config.num_query_tokens, config.text.d_model, device=device)
        ids = [[5] * (N_TEXT_TOKENS - 1) + [1]] * n
        start = time.perf_counter()
        localizer.score(visual, ids)
        if compiled:
            bench.report.add("model", f"T5 compiled for {budget} tokens", seconds=time.perf_counter() - start)
        name = f"Localizer {precision}, {budget} tokens{', compiled' * compiled}"
        _report(
            bench, name, n, flops.answer(config, seen, 1), precision, partial(localizer.score, visual, ids), "pairs"
        )
    with watched(device) as busy:
        localizer.score(visual, ids)
    bench.report.kernels(f"Localizer {precision}{', compiled' * compiled}", busy)
    if not compiled:
        _language_parts(bench, localizer, visual, ids, precision)


@torch.no_grad()
def _language_parts(bench: Bench, localizer: Localizer, visual: Tensor, ids: list[list[int]], precision: str) -> None:
    language, config, n = localizer.language, bench.artifacts["config"], len(ids)
    seen = config.num_query_tokens + 3 + N_TEXT_TOKENS
    features = torch.randn(64, *config.feature_shape, device=bench.device, dtype=torch.float16)
    work = partial(localizer.visual, features)
    _report(bench, f"Q-Former {precision}, 64 frames", 64, flops.qformer(config), precision, work, "frames")
    inputs = language.assemble(single_frame_prefixes(), visual.unsqueeze(1), ids)
    hidden = language.encode(inputs)
    works = {
        "assemble": (partial(language.assemble, single_frame_prefixes(), visual.unsqueeze(1), ids), 0.0),
        "encode": (partial(language.encode, inputs), flops.t5_encoder(config, seen)),
        "decode": (
            partial(language.decode, hidden, inputs.mask, language.decoder_ids(n)),
            flops.t5_decoder(config, seen, 1),
        ),
    }
    for name, (call, operations) in works.items():
        _report(bench, f"Localizer's {name} of {n} pairs, {precision}", n, operations, precision, call, "pairs")


def equality(bench: Bench) -> None:
    """Report how many keyframes and answers differ between reduced precisions and float32 throughout."""
    n_videos = min(8, bench.size.n_videos)
    exact = _keyframes_and_answers(bench, n_videos, "float32", "float32")
    vit_precision = "float32" if bench.device == "cpu" else "float16"
    for t5_precision in ("bfloat16", *EIGHT_BITS):
        reduced = _keyframes_and_answers(bench, n_videos, vit_precision, t5_precision)
        _compare(bench.report, f"ViT {vit_precision}, Flan-T5 {t5_precision}, against float32", exact, reduced)


def _compare(report: Report, row: str, exact: _Choices, reduced: _Choices) -> None:
    (yes, frames, answers), (other_yes, other_frames, other_answers) = exact, reduced
    report.add(
        "equality",
        row,
        questions=len(frames),
        questions_with_other_keyframes_percent=100 * float((frames != other_frames).any(axis=1).mean()),
        other_keyframes_percent=100
        * float(np.mean([len(set(a) - set(b)) / len(a) for a, b in zip(frames, other_frames, strict=True)])),
        other_answers_percent=100 * float((answers != other_answers).mean()),
        largest_difference_of_logit_yes=float(np.abs(yes - other_yes).max()),
        spread_of_logit_yes=float(yes.std(axis=1).mean()),
    )


def _keyframes_and_answers(bench: Bench, n_videos: int, vit_precision: str, t5_precision: str) -> _Choices:
    from pipeline.models.answerer import Answerer
    from pipeline.models.localizer import Localizer
    from pipeline.models.prompts import PROMPT_STYLES, numbered_frame_prefixes
    from pipeline.models.vision import pixels
    from pipeline.selection.top_k import top_k_positions

    artifacts, run, device = bench.artifacts, bench.run, bench.device
    reader = artifacts["frames"].open()
    videos = [row["video_id"] for row in artifacts["frames"].rows("videos")][:n_videos]
    encoder = artifacts["backbone"].vision_encoder(run, vit_precision)
    features = []
    with torch.no_grad():
        for video in videos:
            frames = pixels(torch.from_numpy(reader.read(video, slice(None))).to(device))
            features.append(torch.cat([encoder(batch).float() for batch in frames.split(16)]))
    del encoder
    language = artifacts["backbone"].language(run, t5_precision)
    localizer = Localizer(artifacts["localizer"].load(run, artifacts["backbone"], t5_precision), language)
    answerer = Answerer(artifacts["answerer"].load(run, artifacts["backbone"], t5_precision), language)
    questions = [row for row in artifacts["questions"].rows("questions") if row["video_id"] in videos]
    style, verbalizer = PROMPT_STYLES["multiple_choice"], language.verbalizer
    localizer_visual, answerer_visual = list(map(localizer.visual, features)), list(map(answerer.visual, features))
    yes, chosen, answers = [], [], []
    k = bench.recipe.config_of("select_keyframes").k
    for row in questions:
        number = videos.index(row["video_id"])
        (ids,) = verbalizer.tokenize([style.localize(row["question"], row["options"], "necessary_details")]).token_ids
        visual = localizer_visual[number]
        scores = localizer.score(visual, [ids] * len(visual)).logit_yes.float().cpu().numpy()
        keyframes = np.sort(top_k_positions(scores, k))
        (ids,) = verbalizer.tokenize([style.answer(row["question"], row["options"])]).token_ids
        visual = answerer_visual[number][torch.from_numpy(keyframes).to(device)].unsqueeze(0)
        output = answerer.answer(visual, [ids], [len(row["options"])], numbered_frame_prefixes(k))
        yes.append(scores)
        chosen.append(keyframes)
        answers.append(int(output.prediction[0]))
    return np.array(yes), np.array(chosen), np.array(answers)
