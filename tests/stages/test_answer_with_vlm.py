"""`answer_with_vlm`: another video-language model answers from the keyframes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cache.errors import CheckpointError, MachineError
from cache.store import Store
from cli import main
from pipeline.datasets.question import Question
from pipeline.inference.local_vlm import LocalVlm
from pipeline.models.image_text import ImageTextModel
from stages.answer_with_vlm import WrittenAnswers
from stages.evaluate import Metrics
from tests.small_world import SMALL
from tests.stages.runs import UNIFORM, arguments, artifact, records
from tests.tiny_vlm import TINY, write_tiny_vlm

pytestmark = pytest.mark.slow

VLM = (*UNIFORM, "--set", "chain.answerer=vlm", "--set", "answer_with_vlm.precision=float32")
TINY_WEIGHTS = ("--set", "answer_with_vlm.weights=tiny-vlm")


@pytest.fixture(scope="session")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vlm(tmp_path_factory.mktemp("vlm"))


def run(demo: Path, store: Path, *more: str, weights: Path | None = None, command: str = "run") -> int:
    places = ["--annotations", str(demo / "questions.csv"), "--videos", str(demo / "videos")]
    if weights is not None:
        places += ["--weights", f"tiny-vlm={weights}"]
    return main([command, SMALL, *places, "--store", str(store), "--device", "cpu", *VLM, *more])


def answers_of(store: Path) -> WrittenAnswers:
    return WrittenAnswers(Store(store), artifact(store, "answers").id)


def test_a_vlm_run_without_blip2_is_evaluated_compared_and_printed(
    demo: Path, vlm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert run(demo, store, *TINY_WEIGHTS, "--name", "four", weights=vlm) == 0
    stages = {record.stage for record in records(store).values()}
    assert stages == {"list_questions", "sample_frames", "select_keyframes", "answer_with_vlm", "evaluate"}
    answers = answers_of(store)
    rows = {row["question_id"]: row for row in answers.rows("answers")}
    assert {row["status"] for row in rows.values()} == {"ok", "failed"}
    for row in rows.values():
        assert (row["prediction"] is None) == (row["status"] == "failed") == (not row["option_logits"])
        if row["prediction"] is not None:
            assert row["prediction"] == np.argmax(row["option_logits"]) and max(row["option_logits"]) < 0
    metrics: Metrics = artifact(store, "metrics")
    assert metrics.headline().n_unanswered == sum(row["status"] == "failed" for row in rows.values()) == 6
    assert "no report" not in "".join(capsys.readouterr())
    assert main(["answers", answers.id, "--store", str(store)]) == 0
    assert "empty" in capsys.readouterr().out
    assert run(demo, store, *TINY_WEIGHTS, "--set", "select_keyframes.k=1", "--name", "one", weights=vlm) == 0
    assert main(["compare", "four", "one", "--store", str(store)]) == 0
    assert main(["compare", answers.id, answers_of(store).id, "--store", str(store)]) == 0


def test_a_sweep_compares_answerers_with_different_weights(
    demo: Path, vlm: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(finished, tmp_path / "store"))
    answerers = ("sevila", "vlm", "vlm=tiny-vlm,answer_with_vlm.height=64")
    grid = ("--selectors", "top_k", "--k", "1", "--answerers", *answerers, "--json")
    vlm_options = (*TINY_WEIGHTS, "--set", "answer_with_vlm.precision=float32", "--weights", f"tiny-vlm={vlm}")
    capsys.readouterr()
    assert main(arguments("sweep", demo, store, *grid, *vlm_options)) == 0
    cells = json.loads(capsys.readouterr().out)
    expected = [(selector, answerer) for selector in ("uniform", "top_k") for answerer in answerers]
    assert [(cell["selector"], cell["answerer"]) for cell in cells] == expected
    uniform_percent = {cell["answerer"]: cell["headline"]["accuracy_percent"] for cell in cells[:3]}
    for cell in cells[3:]:  # compared with uniform keyframes of the same answerer
        assert cell["against_uniform"][0]["a_percent"] == pytest.approx(uniform_percent[cell["answerer"]])
    assert main(["report", Path(SMALL).stem, "--store", str(store), "-o", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for label in ("zero-shot", "tiny-vlm", answerers[-1]):
        assert f"uniform, k = 1 → top_k by localizer, k = 1, {label}" in page


def test_an_interrupted_run_resumes_after_its_finished_shards(
    demo: Path, vlm: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ("--shard-megabytes", "0.25")  # two videos each
    prompt_lengths: list[int] = []
    letters = ImageTextModel.letters

    def interrupt(model: ImageTextModel, inputs: dict[str, Any], options: str) -> Any:
        prompt_lengths.append(inputs["input_ids"].shape[1])
        if len(prompt_lengths) == 9:
            raise MachineError("the machine is switched off")
        return letters(model, inputs, options)

    other = Path(shutil.copytree(store, tmp_path / "other"))
    monkeypatch.setattr(ImageTextModel, "letters", interrupt)
    assert run(demo, store, *TINY_WEIGHTS, *shards, weights=vlm) == 1
    prompt_lengths[:] = [0] * 10
    assert run(demo, store, *TINY_WEIGHTS, *shards, weights=vlm) == 0
    assert len(prompt_lengths) == 10 + 24 - 6  # the first shard's two videos of three questions are not asked again
    assert run(demo, other, *TINY_WEIGHTS, weights=vlm) == 0
    assert answers_of(store).id == answers_of(other).id
    assert answers_of(store).rows("answers") == answers_of(other).rows("answers")


def test_replies_that_name_no_option_are_unanswered_and_stored(
    demo: Path, vlm: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = iter(["B", "(a)", "A or B", *["what?"] * 21])
    monkeypatch.setattr(ImageTextModel, "write", lambda *_: (next(replies), 3))
    assert run(demo, store, *TINY_WEIGHTS, "--set", "answer_with_vlm.readout=generation", weights=vlm) == 0
    answers = answers_of(store)
    assert [row["prediction"] for row in answers.rows("answers")][:4] == [1, 0, None, None]
    assert [row["text"] for row in answers.rows("replies")][:4] == ["B", "(a)", "A or B", "what?"]
    assert answers.rows("answers")[2]["reason"] == "unparsed_reply: names no option, or several: 'A or B'"


def test_the_identity_of_weights_includes_the_chat_template_and_no_images(
    demo: Path, vlm: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned_id(folder: Path) -> str:
        capsys.readouterr()
        assert run(demo, store, *TINY_WEIGHTS, weights=folder, command="plan") == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "answer_with_vlm" in line]
        return next(word for word in line.split() if word.startswith("answer_with_vlm-"))

    other = Path(shutil.copytree(vlm, tmp_path / "other"))
    (other / "maker.png").write_bytes(b"")
    assert planned_id(other) == planned_id(vlm)
    with (other / "chat_template.jinja").open("a") as file:
        file.write(" ")
    assert planned_id(other) != planned_id(vlm)


def test_a_vlm_recipe_needs_one_named_model_and_the_forward_chain(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(demo, tmp_path) == 1
    assert "[answer_with_vlm] names no model" in capsys.readouterr().err
    assert run(demo, tmp_path, *TINY_WEIGHTS, "--set", "chain.kind=full") == 1
    assert "for the forward chain" in capsys.readouterr().err
    assert run(demo, tmp_path, *TINY_WEIGHTS, "--set", "answer_with_vlm.served=x") == 1
    assert "without weights" in capsys.readouterr().err


def images_in(folder: Path, n: int) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(n)]
    for number, path in enumerate(paths):
        Image.new("RGB", (60 + number, 40), (40 * number, 90, 10)).save(path)
    return paths


@pytest.mark.parametrize("kind", TINY)
def test_every_model_class_reads_several_images_without_torchvision(kind: str, tmp_path: Path) -> None:
    model = ImageTextModel(write_tiny_vlm(tmp_path / kind, kind), "cpu", "float32")
    three, one = (model.inputs("Which?\nA. x", images_in(tmp_path, n)) for n in (3, 1))
    assert three["input_ids"].shape[1] > one["input_ids"].shape[1] and three["pixel_values"].shape[0] % 3 == 0
    values = model.letters(three, "ABC")
    assert values.shape == (3,) and np.isfinite(values).all() and np.array_equal(values, model.letters(three, "ABC"))
    text, n_tokens = model.write(three, 4)
    assert isinstance(text, str) and n_tokens == 4


def test_likelihoods_sum_a_letter_with_and_without_a_leading_space(tmp_path: Path) -> None:
    model = ImageTextModel(write_tiny_vlm(tmp_path / "tiny"), "cpu", "float32")
    inputs = model.inputs("Which?", images_in(tmp_path, 1))
    vocabulary = model._processor.tokenizer.get_vocab()
    probabilities = model._model(**inputs).logits[0, -1].softmax(dim=-1).detach()
    both = float(probabilities[vocabulary["B"]] + probabilities[vocabulary["\u0120B"]])
    assert np.exp(model.letters(inputs, "AB")[1]) == pytest.approx(both, rel=1e-5)


def test_questions_too_long_or_with_special_tokens_fail_with_a_reason(tmp_path: Path) -> None:
    model = ImageTextModel(write_tiny_vlm(tmp_path / "internvl", "internvl"), "cpu", "float32")
    reader = LocalVlm(lambda: model, "likelihood", "", 8)

    def reason(text: str) -> str:
        question = Question("q", "v", text, ("x", "y"), 0, "", None, None)
        return reader.ask(question, images_in(tmp_path, 1))().reason

    assert reason("What?") == ""
    assert reason("What is <IMG_CONTEXT>?").startswith("refused_prompt: the model's processor says: ")
    model.most_tokens = 100
    assert reason("What " * 100).startswith("too_long: ")


@pytest.mark.parametrize("missing", ["chat_template.jinja", "config.json", "tokenizer.json"])
def test_an_incomplete_model_folder_is_refused(missing: str, tmp_path: Path) -> None:
    folder = write_tiny_vlm(tmp_path / "tiny")
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=r"tiny: (has no chat template|is no image-text-to-text model)"):
        ImageTextModel(folder, "cpu", "float32")
