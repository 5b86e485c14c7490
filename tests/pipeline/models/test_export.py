"""Weights exported for other software and loaded again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Blip2ForConditionalGeneration
from transformers.utils import logging

from cache.errors import CheckpointError
from pipeline.models import export
from pipeline.models.answerer import Answerer
from pipeline.models.checkpoint import (
    load_language,
    load_saved_visual_prompt,
    load_vision_encoder,
    load_visual_prompt,
    save_tensors,
)
from pipeline.models.config import read_blip2_config
from pipeline.models.export import write_blip2, write_official
from pipeline.models.generation import generate
from pipeline.models.prompts import numbered_frame_prefixes, open_answer_prompt
from pipeline.models.tensors import open_checkpoint
from pipeline.models.verbalizer import Verbalizer
from pipeline.models.weight_parts import compare_weights, open_weights


def trained(tiny: Path, seed: int) -> dict[str, Tensor]:
    """Return the tensors of a VisualPrompt that differ from the folder's own."""
    generator = torch.Generator().manual_seed(seed)
    own = load_visual_prompt(read_blip2_config(tiny), tiny, "blip2").state_dict()
    return {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in own.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_official_file_keeps_localizer_and_answerer_bit_for_bit(tiny: Path, tmp_path: Path, suffix: str) -> None:
    states = {"localizer": trained(tiny, 1), "answerer": trained(tiny, 2)}
    path = tmp_path / f"ours{suffix}"
    write_official(states, path)  # type: ignore[arg-type]
    for part, state in states.items():
        loaded = load_visual_prompt(read_blip2_config(tiny), path, part).state_dict()  # type: ignore[arg-type]
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@torch.no_grad()
def test_transformers_generates_the_same_tokens_from_an_exported_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 100_000)  # several shards
    state = trained(tiny, 3)
    write_blip2(tiny, state, tmp_path / "out")
    save_tensors(state, tmp_path / "own.safetensors")
    config, words = read_blip2_config(tmp_path / "out"), Verbalizer(tmp_path / "out" / "tokenizer.json")
    prompt = load_saved_visual_prompt(config, tmp_path / "own.safetensors")
    answerer = Answerer(prompt, load_language(config, tiny, words))
    logging.disable_progress_bar()
    blip2 = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    image_token = blip2.config.text_config.vocab_size - 1  # a token that the tokenizer does not have
    blip2.config.image_token_id = image_token
    texts = set()
    for seed in range(4):
        pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(seed))
        visual = answerer.visual(load_vision_encoder(config, tmp_path / "out")(pixels))
        text = open_answer_prompt("What is it?", ())
        inputs = answerer.language.assemble(numbered_frame_prefixes(2), visual[None], words.tokenize([text]).token_ids)
        output = generate(answerer.language, inputs, 12)
        prefixes = words.tokenize_prefixes(numbered_frame_prefixes(2))
        images = [id for ids in prefixes for id in [*ids, *[image_token] * config.num_query_tokens]]
        ids = torch.tensor([[*images, *words.tokenize([text]).token_ids[0]]])
        generated = blip2.generate(
            pixels, ids, max_new_tokens=12, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        n_tokens = generated.sequences.shape[1] - 1  # without the decoder start token
        assert output.token_ids[0, :n_tokens].tolist() == generated.sequences[0, 1:].tolist()
        expected_logits = torch.stack(generated.logits, dim=1)[0]
        ids_before = torch.cat(
            [torch.tensor([[answerer.language.start_id]]), output.token_ids[:, : n_tokens - 1]], dim=1
        )
        logits = answerer.language.decode(answerer.language.encode(inputs), inputs.mask, ids_before)[0]
        # transformers' LayerNorm on the ViT's features adds 1e-6 to the variance, the official code 1e-5.
        torch.testing.assert_close(logits, expected_logits, rtol=0, atol=2e-4)
        texts.add(tuple(output.token_ids[0].tolist()))
    assert len(texts) > 1  # the text depends on the frames


def test_an_exported_folder_keeps_every_other_tensor_bit_for_bit(tiny: Path, tmp_path: Path) -> None:
    state = trained(tiny, 4)
    write_blip2(tiny, state, tmp_path / "out")
    before, after = open_checkpoint(tiny), open_checkpoint(tmp_path / "out")
    assert before.keys() == after.keys()
    parts = {part.part_a: part for part in compare_weights(open_weights(tiny), open_weights(tmp_path / "out"))}
    assert not parts["ViT"].differences and not parts["language model"].differences
    assert len(parts["Q-Former"].differences) == len(state) and 0.1 < parts["Q-Former"].max_difference < 1
    loaded = load_visual_prompt(read_blip2_config(tmp_path / "out"), tmp_path / "out", "blip2").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    with pytest.raises(CheckpointError, match="expected a new or an empty folder"):
        write_blip2(tiny, state, tmp_path / "out")
