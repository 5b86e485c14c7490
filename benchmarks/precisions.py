"""Effects of reduced precisions of the language model, and their speed on a CPU: `python -m benchmarks.precisions STORE`.

STORE holds the demo (`sevila demo --store STORE`), whose trained models run again in each precision: the Localizer scores the
test split, keyframes are selected, and the Answerer answers. Without STORE, only the speed is measured: one encoder in the
shape of Flan-T5-base, 64 rows of 72 tokens, in turns. Set OMP_NUM_THREADS=1. Writes `precisions_speed.json`, and with STORE
`precisions_effect.json`, to OUT, by default the current folder.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
import torch
from scipy.stats import spearmanr

import sevila
from benchmarks.folding import ROWS, SHAPE, TOKENS, random_language
from benchmarks.report import show
from benchmarks.timing import medians_by_turns
from cache.store import Store
from pipeline.engine.build import build
from pipeline.engine.stage import Artifact, RunContext
from pipeline.models.eight_bits import to_eight_bits
from pipeline.models.language import LanguageInput
from pipeline.precision import EIGHT_BITS, LanguagePrecision, activations
from stages.all import STAGES

PRECISIONS = get_args(LanguagePrecision)  # float32, the reference, is first
SETTINGS = ("pre-trained Localizer", "refined Localizer")


class PrecisionResults(NamedTuple):
    """Scores, keyframes and answers in one precision; Q questions, T frames, K keyframes.

    Attributes:
        scores: [Q, T] float32, the probability of yes.
        keyframes: [Q, K] frame indices in time order.
        answers, right: [Q], the fine-tuned Answerer's choices, and the right ones.
    """

    scores: np.ndarray
    keyframes: np.ndarray
    answers: np.ndarray
    right: np.ndarray


def rebuilt(artifact: Artifact, run: RunContext, changed_inputs: dict[str, Artifact], **config: str) -> Artifact:
    """Build a variant of an artifact with other inputs, by name, or other values of its config."""
    stage = STAGES[artifact.record.stage]
    ids = artifact.record.inputs
    stored = {name: STAGES[id.split("-")[0]].output(run.store, id) for name, id in ids.items() if id}
    inputs = [changed_inputs.get(name, stored.get(name)) for name in stage.inputs]
    return build(stage, stage.config.model_validate({**artifact.record.config, **config}), run, inputs)


def results_in(precision: str, tables: sevila.RunTables, setting: str, store: Store) -> PrecisionResults:
    """Run the models of one setting of the demo again, in a precision."""
    run = RunContext(store, device="cpu")

    def stored(stage: str, name: str) -> Artifact:
        return STAGES[stage].output(store, tables.of(stage, name).id)

    scores = rebuilt(stored("score_frames", setting), run, {}, precision=precision)
    keyframes = rebuilt(stored("select_keyframes", setting), run, {"scores": scores})
    inputs: dict[str, Artifact] = {"keyframes": keyframes}
    answers = rebuilt(stored("answer_questions", f"{setting}, fine-tuned"), run, inputs, precision=precision)
    rows = answers.rows("answers")
    questions = tables.of("list_questions", "evaluation split").arrow("questions").to_pylist()
    right = {row["question_id"]: row["answer_index"] for row in questions}
    return PrecisionResults(
        scores.columns("frame_scores", "probability_yes")["probability_yes"].reshape(len(rows), -1),
        np.array([row["frame_indices"] for row in keyframes.rows("keyframes")]),
        np.array([row["prediction"] for row in rows]),
        np.array([right[row["question_id"]] for row in rows]),
    )


def compared(exact: PrecisionResults, reduced: PrecisionResults) -> list[str]:
    """Return the cells of a row: the differences of a precision from float32."""
    differing = [len(set(a) - set(b)) / len(a) for a, b in zip(exact.keyframes, reduced.keyframes, strict=True)]
    ranks = np.mean([spearmanr(a, b).statistic for a, b in zip(exact.scores, reduced.scores, strict=True)])
    was_right, is_right = exact.answers == exact.right, reduced.answers == reduced.right
    return [
        f"{ranks:.4f}",
        f"{100 * np.mean(differing):.1f} %",
        f"{100 * np.mean(np.array(differing) > 0):.1f} %",
        f"{100 * np.mean(exact.answers != reduced.answers):.1f} %",
        f"{100 * is_right.mean():.2f} %",
        f"{np.sum(is_right & ~was_right)}, {np.sum(was_right & ~is_right)}",
    ]


def effect(root: str) -> list[list[str]]:
    """Return the table of the effects of each precision on the demo in a store."""
    head = ["Localizer", "precision", "rank correlation", "other keyframes", "questions with other keyframes"]
    lines = [[*head, "other answers", "accuracy", "questions gained, lost"]]
    experiment = sevila.load("demo", store=root)
    tables = experiment.results()
    for setting in SETTINGS:
        results = {precision: results_in(precision, tables, setting, experiment.store) for precision in PRECISIONS}
        lines += [[setting, precision, *compared(results["float32"], results[precision])] for precision in PRECISIONS]
    return lines


@torch.no_grad()
def speed() -> list[list[str]]:
    """Return the table of an encoder's processor seconds and of its blocks' sizes, by precision."""
    calls, size_bytes = {}, {}
    for precision in PRECISIONS:
        language = random_language(activations(precision))
        if precision in EIGHT_BITS:
            to_eight_bits(language, precision)
        size_bytes[precision] = sum(tensor.nbytes for tensor in language.reading_blocks.state_dict().values())
        inputs = LanguageInput(
            torch.randn(ROWS, TOKENS, SHAPE["d_model"]).to(language.dtype), torch.ones(ROWS, TOKENS).long()
        )
        calls[precision] = partial(language.encode, inputs)
    medians = medians_by_turns(calls, 3, time.process_time)
    lines = [["precision", "encoder s", "of float32", "blocks MB"]]
    for precision, seconds in medians.items():
        ratio = seconds / medians["float32"]
        lines.append([precision, f"{seconds:.1f}", f"{ratio:.2f}", f"{size_bytes[precision] / 1e6:.0f}"])
    return lines


if __name__ == "__main__":
    show("precisions_speed", speed())
    if len(sys.argv) > 1:
        show("precisions_effect", effect(sys.argv[1]), n_left=2)
