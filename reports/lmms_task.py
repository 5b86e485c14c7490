"""A task for lmms-eval's `--include_path`: keyframe clips with their questions, for any model that it supports."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Container
from pathlib import Path

from cache.errors import SevilaError
from cache.files import write_atomically
from pipeline import option_letters
from pipeline.datasets.question import Question
from pipeline.inference.written_answers import why_not_asked
from pipeline.reasons import Reason
from reports.keyframe_export import LIST, KeyframesOfRun

QUESTIONS, LEFT_OUT, TASK, FUNCTIONS = "questions.jsonl", "left_out.json", "task.yaml", "utils.py"
NO_CLIP = Reason("no_clip: its video could not be read for the export")

# lmms-eval's `mean` adds a standard error, clustered by video.
YAML = """\
# Written by `sevila keyframes export --as lmms-eval` from {keyframes}.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}  # beside this file
test_split: test
output_type: generate_until
cluster_key: video_id
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: target
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  do_sample: false
metric_list:
  - metric: accuracy  # of questions with a known right option; a reply that names no option counts as wrong
    aggregation: mean
    higher_is_better: true
  - metric: unparsed
    aggregation: mean
    higher_is_better: false
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: "\\n{instruction}"
metadata:
  version: 1.0
  questions: {n_questions}
  left_out: {n_left_out}  # {left_out}
"""

# Appended to the source of `pipeline.option_letters`.
UTILS = """

# The functions that lmms-eval calls.


def doc_to_visual(doc):
    from pathlib import Path

    return [str(Path(__file__).resolve().parent / doc["clip"])]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    prompts = lmms_eval_specific_kwargs or {}
    question = doc["question"] + "\\n" + option_lines(doc["options"])
    return prompts.get("pre_prompt", "") + question + prompts.get("post_prompt", "")


def process_results(doc, results):
    number = parse_option(results[0], doc["options"])
    if not doc["target"]:  # the right option is not published; `--log_samples` keeps the replies
        return {"unparsed": float(number is None)}
    accuracy = float(number is not None and OPTION_LETTERS[number] == doc["target"])
    return {"accuracy": accuracy, "unparsed": float(number is None)}
"""


def write_task(keyframes: KeyframesOfRun, folder: Path) -> str:
    """Write a task with the questions whose clips are in `folder`, and return its name.

    Questions without a clip or without options are left out; `left_out.json` lists them with the reasons.

    Raises:
        SevilaError: No question remains.
    """
    clips = {row["question_id"]: row["files"][0] for row in json.loads((folder / LIST).read_bytes())}
    reasons = {row.question_id: row.reason for row in keyframes.rows}
    documents, left_out = [], []
    for question in keyframes.questions.questions():
        reason = reasons[question.question_id] or _reason(question, clips)
        if reason:
            left_out.append({"question_id": question.question_id, "video_id": question.video_id, "reason": reason})
        else:
            documents.append(_document(question, clips[question.question_id]))
    if not documents:
        raise SevilaError(
            f"{folder}: no question can be asked: {left_out[0]['reason'] if left_out else 'there are none'}"
        )
    name = "sevila_" + (re.sub("[^A-Za-z0-9_-]+", "_", folder.resolve().name).strip("_") or "keyframes")
    codes = Counter(Reason(row["reason"]).code for row in left_out)
    task = YAML.format(
        keyframes=keyframes.id,
        name=name,
        questions=QUESTIONS,
        instruction=option_letters.INSTRUCTION,
        n_questions=len(documents),
        n_left_out=len(left_out),
        left_out=", ".join(f"{count} {code}" for code, count in sorted(codes.items())) or "none",
    )
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in documents]
    write_atomically(folder / QUESTIONS, "".join(lines).encode())
    write_atomically(folder / LEFT_OUT, json.dumps(left_out, ensure_ascii=False, indent=1).encode())
    write_atomically(folder / FUNCTIONS, (Path(option_letters.__file__).read_text("utf-8") + UTILS).encode())
    write_atomically(folder / TASK, task.encode())
    return name


def _reason(question: Question, clips: Container[str]) -> Reason:
    """Return the reason why a question with keyframes cannot be asked; empty if it can."""
    return why_not_asked(question) or (Reason() if question.question_id in clips else NO_CLIP)


def _document(question: Question, clip: str) -> dict[str, str | list[str]]:
    right = "" if question.answer_index is None else option_letters.OPTION_LETTERS[question.answer_index]
    return {
        "question_id": question.question_id,
        "video_id": question.video_id,
        "type": question.question_type,
        "question": question.question,
        "options": list(question.options),
        "target": right,
        "clip": clip,
    }
