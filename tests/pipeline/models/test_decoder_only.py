"""A BLIP-2 with a decoder-only language model computes the same as transformers, in any batch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Blip2ForConditionalGeneration
from transformers.utils import logging

from cache.errors import CheckpointError
from pipeline.models.answerer import Answerer
from pipeline.models.checkpoint import (
    check_blip2,
    count_parameters,
    load_language,
    load_verbalizer,
    load_vision_encoder,
    load_visual_prompt,
)
from pipeline.models.config import model_config, read_blip2_config
from pipeline.models.decoder_verbalizer import DecoderVerbalizer
from pipeline.models.export import Part, write_blip2, write_official
from pipeline.models.frame_selector import text_vectors
from pipeline.models.generation import generate
from pipeline.models.localizer import Localizer
from pipeline.models.prompts import (
    answer_prompt,
    frame_prefixes,
    localize_prompt,
    open_answer_prompt,
    single_frame_prefixes,
)
from tests.conftest import Package
from tests.tiny_blip2 import MOST_TOKENS, write_tiny_blip2

OPTIONS = ["yes", "no", "the frame", "a question"]
PARTS: tuple[Part, ...] = ("localizer", "answerer")
PROMPTS = [answer_prompt("why " * (3 * row + 1), OPTIONS) for row in range(3)]


class Tiny:
    """A folder with a tiny random model, loaded by this project and by transformers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_blip2_config(folder)
        check_blip2(self.config, folder)
        self.words = load_verbalizer(self.config, folder)
        self.language = load_language(self.config, folder, self.words)
        self.prompt = load_visual_prompt(self.config, folder, "blip2")
        self.localizer, self.answerer = Localizer(self.prompt, self.language), Answerer(self.prompt, self.language)
        logging.disable_progress_bar()
        self.transformers: Any = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
        self.transformers.vision_model.post_layernorm.eps = 1e-5  # as in the official code
        self.image_token = self.config.text.vocab_size - 1  # a token that the tokenizer does not have
        self.transformers.config.image_token_id = self.image_token
        self.vision = load_vision_encoder(self.config, folder)

    def pixels(self, *shape: int) -> Tensor:
        return torch.randn(*shape, 3, 28, 28, generator=torch.Generator().manual_seed(sum(shape)))

    def visual(self, pixels: Tensor) -> Tensor:
        """Visual tokens [R, K, Q, L], with gradients, of pixels [R, K, 3, H, W]."""
        with torch.no_grad():
            features = self.vision(pixels.flatten(0, 1))
        return self.prompt(features).unflatten(0, pixels.shape[:2])

    def transformers_ids(self, prefixes: Sequence[str], text_ids: Sequence[int]) -> list[int]:
        images = [self.image_token] * self.config.num_query_tokens
        before = [id for ids in self.words.tokenize_prefixes(prefixes) for id in [*ids, *images]]
        return [*before, *text_ids, self.language.start_id]

    def transformers_logits(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        """Return transformers' logits of the next token of each single row, [R, V]; pixels [R, K, 3, H, W]."""
        prefixes, ids = frame_prefixes(pixels.shape[1]), self.words.tokenize(texts).token_ids
        rows = [torch.tensor([self.transformers_ids(prefixes, text)]) for text in ids]
        logits = [
            self.transformers(pixel_values=frames, input_ids=row).logits
            for frames, row in zip(pixels, rows, strict=True)
        ]
        return torch.cat([each[:, -1] for each in logits])


@pytest.fixture(scope="module", params=["opt", "llama"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny_blip2(folder, seed=0, language=request.param)
    return Tiny(folder)


def assert_near(output: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance)


@torch.no_grad()
def test_localizer_scores_match_transformers(tiny: Tiny) -> None:
    texts = [localize_prompt("why " * (row + 1), OPTIONS) for row in range(3)]
    pixels = tiny.pixels(3, 1)
    scores = tiny.localizer.score(tiny.visual(pixels)[:, 0], tiny.words.tokenize(texts).token_ids)
    expected = tiny.transformers_logits(pixels, texts)
    assert_near(scores.logit_yes, expected[:, tiny.words.yes_id], 1e-4)
    assert_near(scores.logit_no, expected[:, tiny.words.no_id], 1e-4)
    assert_near(scores.probability_yes, expected.softmax(dim=1)[:, tiny.words.yes_id], 1e-4)
    assert scores.logit_yes.std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 11])
def test_option_logits_match_the_first_token_of_transformers(tiny: Tiny, frames: int) -> None:
    pixels = tiny.pixels(3, frames)
    ids = tiny.words.tokenize(PROMPTS).token_ids
    out = tiny.answerer.answer(tiny.visual(pixels), ids, [4, 3, 4], frame_prefixes(frames))
    expected = tiny.transformers_logits(pixels, PROMPTS)
    letters = expected[:, list(tiny.words.letter_ids[:4])]
    letters[1, 3] = -torch.inf
    assert_near(out.option_logits, letters, 1e-4)
    assert torch.equal(out.option_logits_forced, out.option_logits)
    assert torch.equal(out.first_token_id, expected.argmax(dim=1))
    assert torch.equal(out.prediction, letters.argmax(dim=1))


@torch.no_grad()
def test_option_text_scores_match_the_cross_entropy_of_transformers(tiny: Tiny) -> None:
    pixels, prefixes = tiny.pixels(1, 2), frame_prefixes(2)
    options = tiny.words.tokenize_targets(OPTIONS)
    ids = tiny.words.tokenize(PROMPTS[:1]).token_ids
    scores = tiny.answerer.option_text_scores(tiny.visual(pixels), ids, [options], prefixes, 10_000)
    for option, target in enumerate(options):
        assert target[-1] == tiny.words.end_id
        loss = transformers_loss(tiny, pixels[0], tiny.transformers_ids(prefixes, ids[0]), target)
        assert_near(scores[0, option], -loss.sum(), 1e-4)


def transformers_loss(tiny: Tiny, pixels: Tensor, prompt: list[int], target: list[int]) -> Tensor:
    """Return transformers' summed loss of `target` after a prompt."""
    labels = torch.tensor([[-100] * len(prompt) + target])
    loss = tiny.transformers(pixel_values=pixels, input_ids=torch.tensor([prompt + target]), labels=labels).loss
    return loss * len(target)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 12])
def test_results_of_a_row_do_not_depend_on_the_batch(tiny: Tiny, frames: int) -> None:
    visual = tiny.visual(tiny.pixels(3, frames))
    ids, prefixes = tiny.words.tokenize(PROMPTS).token_ids, frame_prefixes(frames)
    options = [tiny.words.tokenize_targets([*OPTIONS, "a question of words"][row : row + 4]) for row in range(2)] * 2
    functions: list[Callable[[slice], Tensor]] = [
        lambda rows: tiny.answerer.answer(visual[rows], ids[rows], [4] * 3, prefixes).option_logits,
        lambda rows: tiny.answerer.option_text_scores(visual[rows], ids[rows], options[:3][rows], prefixes, 900),
        lambda rows: tiny.localizer.score(visual[rows, 0], ids[rows]).logit_yes[:, None],
        lambda rows: generate(tiny.language, tiny.language.assemble(prefixes, visual[rows], ids[rows]), 4)[1],
        lambda rows: text_vectors(tiny.language, ids[rows]),
    ]
    for function in functions:
        together = function(slice(None))
        for row in range(3):
            alone = function(slice(row, row + 1))[0]
            assert_near(alone, together[row, : len(alone)], 5e-5)


def gradients(tiny: Tiny, module: Any, loss: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: module.get_parameter(name).grad.clone() for name in names}


@pytest.mark.parametrize("saving", [False, True])
def test_loss_and_gradients_match_transformers(tiny: Tiny, saving: bool) -> None:
    pixels, prefixes, right = tiny.pixels(3, 2), frame_prefixes(2), [2, 0, 1]
    ids = tiny.words.tokenize(PROMPTS).token_ids
    language = tiny.language.saving_memory() if saving else tiny.language
    answerer = Answerer(tiny.prompt, language)
    targets = answerer.target_ids(right)
    n_tokens = sum(map(len, targets))
    assert [len(target) for target in targets] == [2, 2, 2]  # a letter and the end
    loss = answerer.loss(tiny.visual(pixels), ids, right, prefixes) / n_tokens
    losses = [
        transformers_loss(tiny, *row)
        for row in zip(pixels, (tiny.transformers_ids(prefixes, text) for text in ids), targets, strict=True)
    ]
    expected_loss = sum(losses) / n_tokens
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    trained = {"query_tokens": "query_tokens", "projection.weight": "language_projection.weight"}
    qformer = [name for name, _ in tiny.prompt.named_parameters() if name.startswith("qformer.")]
    trained |= {name: name for name in qformer}
    gradients_of_prompt = gradients(tiny, tiny.prompt, loss, list(trained))
    expected = gradients(tiny, tiny.transformers, expected_loss, list(trained.values()))
    for name, foreign in trained.items():
        # Attention does not depend on the bias of its keys: their gradients are rounding errors.
        scale = expected[foreign].abs().max().item()
        assert_near(gradients_of_prompt[name], expected[foreign], max(1e-5 * scale, 1e-7))
    assert not any(parameter.requires_grad for parameter in language.model.parameters())


@torch.no_grad()
def test_generated_texts_match_transformers(tiny: Tiny) -> None:
    pixels, prefixes = tiny.pixels(2, 2), frame_prefixes(2)
    ids = tiny.words.tokenize([open_answer_prompt("why", ()), PROMPTS[0]]).token_ids
    inputs = tiny.language.assemble(prefixes, tiny.visual(pixels), ids)
    output = generate(tiny.language, inputs, 8)
    for row in range(2):
        prompt = torch.tensor([tiny.transformers_ids(prefixes, ids[row])])
        generated = tiny.transformers.generate(
            pixel_values=pixels[row],
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=tiny.words.pad_id,
        )[0]
        assert output.token_ids[row].tolist() == generated[prompt.shape[1] :].tolist()


@torch.no_grad()
def test_the_vector_of_a_text_is_the_mean_of_the_last_hidden_states(tiny: Tiny) -> None:
    ids = tiny.words.tokenize(["why", "why is the frame"]).token_ids
    for row, vector in zip(ids, text_vectors(tiny.language, ids), strict=True):
        states = tiny.transformers.language_model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1]
        assert_near(vector, states[0].mean(dim=0), 1e-4)


def test_a_prompt_starts_with_the_start_token_and_ends_before_the_answer(tiny: Tiny) -> None:
    words = tiny.words
    assert isinstance(words, DecoderVerbalizer)
    texts = [PROMPTS[0], open_answer_prompt("why", ()), PROMPTS[0] * 9]
    ids, cut = words.tokenize(texts)
    assert cut == [False, False, True]
    ends = [words.text([*each, words.start_id]) for each in ids]
    assert [each.endswith("Answer:") for each in ends] == [True, False, True]
    assert ends[0] == f"{PROMPTS[0]} Answer:" and ends[1].endswith("Short answer:")
    assert len(ids[2]) == 76 and all(each[0] == tiny.config.text.bos_token_id for each in ids)
    assert len(words.letter_ids) == 26 and words.before_letter == ()
    assert [words.text(target) for target in words.tokenize_targets(["the frame", "A"])] == ["the frame", "A"]


def test_more_tokens_than_positions_are_refused_with_advice(tiny: Tiny) -> None:
    frames = MOST_TOKENS // 8
    visual = torch.zeros(1, frames, 4, 32)
    with pytest.raises(CheckpointError, match=rf"maximum is {MOST_TOKENS}; choose fewer keyframes"):
        tiny.answerer.answer(visual, tiny.words.tokenize(PROMPTS[:1]).token_ids, [4], frame_prefixes(frames))


@torch.no_grad()
def test_bfloat16_keeps_logits_in_float32(tiny: Tiny) -> None:
    reduced = load_language(tiny.config, tiny.folder, tiny.words, torch.bfloat16)
    assert reduced.dtype == torch.bfloat16 and reduced.model.lm_head.weight.dtype == torch.float32
    visual, ids = tiny.visual(tiny.pixels(3, 1))[:, 0], tiny.words.tokenize(PROMPTS).token_ids
    scores, expected = Localizer(tiny.prompt, reduced).score(visual, ids), tiny.localizer.score(visual, ids)
    assert_near(scores.logit_yes, expected.logit_yes, 0.1)


def test_shared_parameters_are_counted_once(tiny: Tiny) -> None:
    frozen, own = count_parameters(tiny.config)
    assert frozen + own == sum(parameter.numel() for parameter in tiny.transformers.parameters())


def test_an_exported_folder_keeps_its_language_model(tiny: Tiny, tmp_path: Path) -> None:
    write_blip2(tiny.folder, tiny.prompt.state_dict(), tmp_path / "out")
    assert read_blip2_config(tmp_path / "out").text.to_dict() == tiny.config.text.to_dict()
    check_blip2(read_blip2_config(tmp_path / "out"), tmp_path / "out")


@pytest.mark.parametrize("projection", ["t5_proj", "opt_proj", "llama_proj"])
def test_an_official_file_loads_with_any_name_of_the_projection(tiny: Tiny, tmp_path: Path, projection: str) -> None:
    states = {part: {name: t + n for name, t in tiny.prompt.state_dict().items()} for n, part in enumerate(PARTS, 1)}
    write_official(states, tmp_path / "ours.safetensors")
    content = load_file(tmp_path / "ours.safetensors")
    save_file({name.replace("t5_proj", projection): t for name, t in content.items()}, tmp_path / "theirs.safetensors")
    for part in PARTS:
        loaded = load_visual_prompt(tiny.config, tmp_path / "theirs.safetensors", part).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in states[part].items())


def written(tiny: Tiny, folder: Path, **text: Any) -> Path:
    content = json.loads((tiny.folder / "config.json").read_text())
    content["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("value", [10**12, -1, 1.5, "many", True, [], {}, float("nan")])
@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "num_attention_heads", "eos_token_id", "max_position_embeddings"]
)
def test_an_absurd_size_is_one_error_with_its_key(tiny: Tiny, key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json: .*text_config\.{key}") as error:
        read_blip2_config(written(tiny, tmp_path, **{key: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ({"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ({"eos_token_id": 50118}, "token 50118 is beyond vocab_size"),
        ({"word_embed_proj_dim": 16}, "word_embed_proj_dim 16 differs from hidden_size 32"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is set"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0}}, "rope_type is 'yarn'"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"model_type": "bloom"}, "model_type is 'bloom', expected 'llama' or 'opt' or 't5'"),
    ],
)
def test_inconsistent_sizes_are_refused(tiny: Tiny, text: dict[str, Any], problem: str, tmp_path: Path) -> None:
    of_other = {"opt": ("rope_scaling", "rope_parameters", "num_key_value_heads"), "llama": ("word_embed_proj_dim",)}
    folder = written(tiny, tmp_path, **text)
    if any(key in of_other[tiny.config.text.model_type] for key in text):  # a key of the other model
        assert read_blip2_config(folder).text.to_dict() == tiny.config.text.to_dict()
        return
    with pytest.raises(CheckpointError, match=problem):
        read_blip2_config(folder)


def test_unknown_keys_of_a_config_have_no_effect(tiny: Tiny, tmp_path: Path) -> None:
    hostile = {
        "attn_implementation": "kernels-community/flash-attn",
        "dtype": "float16",
        "auto_map": {"AutoConfig": "evil"},
    }
    hostile |= {"layerdrop": 0.9, "pretraining_tp": 7, "use_kernel": True, "num_labels": 10**12}
    config = read_blip2_config(written(tiny, tmp_path, **hostile)).text
    assert config.to_dict() == tiny.config.text.to_dict() and config._attn_implementation == "sdpa"


@pytest.mark.parametrize("word", ["yes", "C"])
def test_a_tokenizer_that_splits_a_scored_word_is_refused(tiny: Tiny, word: str, tmp_path: Path) -> None:
    content = json.loads((tiny.folder / "tokenizer.json").read_text())
    model = content["model"]
    model["merges"] = [pair for pair in model["merges"] if pair[0][1:] + pair[1] != word]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf'"{word}" after a space is tokenised as .*expected one token'):
        DecoderVerbalizer(tmp_path / "tokenizer.json", tiny.config.text)


def test_a_tokenizer_without_the_configured_end_token_is_refused(tiny: Tiny) -> None:
    config = read_blip2_config(tiny.folder).text
    config.eos_token_id = config.vocab_size - 1
    with pytest.raises(CheckpointError, match=r"it has no token \d+, which ends texts by config\.json"):
        DecoderVerbalizer(tiny.folder / "tokenizer.json", config)


def test_sizes_of_blip2_opt_are_read_from_a_hub_config() -> None:
    text = {
        "model_type": "opt",
        "hidden_size": 2560,
        "ffn_dim": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
    text |= {
        "word_embed_proj_dim": 2560,
        "eos_token_id": 50118,
        "attention_dropout": 0.0,
        "prefix": "</s>",
        "layerdrop": 0.0,
    }
    config = model_config({}, {}, text, 32)
    assert config.text.eos_token_id == 50118 and config.text.max_position_embeddings == 2048
    assert round(sum(count_parameters(config)) / 1e9, 2) == 3.74  # ViT-g 0.99, OPT 2.65, Q-Former 0.11


def test_the_manual_example_adds_a_language_model(package: Package, tmp_path: Path) -> None:
    page = Path(__file__).parents[3] / "docs" / "extending" / "language-model.md"
    (code,) = re.findall("```python\n(.*?)```", page.read_text(), re.DOTALL)
    package("mistral", code, group="sevila.languages")
    write_tiny_blip2(tmp_path, seed=0, language="mistral")
    test_localizer_scores_match_transformers(Tiny(tmp_path))
    folder = written(Tiny(tmp_path), tmp_path, sliding_window=4)
    with pytest.raises(CheckpointError, match=r"text_config\.sliding_window is 4"):
        read_blip2_config(folder)


def test_a_single_frame_has_the_official_prefix(tiny: Tiny) -> None:
    (prefix,) = tiny.words.tokenize_prefixes(single_frame_prefixes())
    assert tiny.words.text(prefix) == "Frame:"
