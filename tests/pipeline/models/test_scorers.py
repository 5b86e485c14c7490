"""CLIP, SigLIP and image-text matching compared with transformers' forward of the same files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import CheckpointError
from pipeline.models import embedder
from pipeline.models.checkpoint import load_vision_encoder
from pipeline.models.embedder import describe_embedder, load_embedder
from pipeline.models.matcher import describe_matcher, load_matcher, read_matcher_config
from pipeline.models.vision import pixels
from tests.tiny_scorers import IMAGE_SIZE, MAX_TOKENS, write_tiny_embedder, write_tiny_matcher

TEXTS = ["what is red", "who", "where does the large green thing go then"]  # the last is too long for the model


def frames(n: int = 3, size: int = IMAGE_SIZE) -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_cosines_match_transformers(kind: str, tmp_path: Path) -> None:
    reference = write_tiny_embedder(tmp_path, kind)
    model = load_embedder(tmp_path, torch.float32, "cpu")
    texts, cut = model.of_texts(TEXTS)
    assert cut == [False, False, True]
    ids = [model.token_ids(text)[0] for text in TEXTS]
    assert len(ids[2]) == MAX_TOKENS and ids[2][-1] == 1  # the end token
    padded = torch.tensor([[*each, *[1] * (MAX_TOKENS - len(each))] for each in ids])  # CLIP and SigLIP: the end token
    inputs = {"input_ids": padded}
    if kind == "clip":
        inputs["attention_mask"] = torch.tensor([[1] * len(each) + [0] * (MAX_TOKENS - len(each)) for each in ids])
    pixel_values = pixels(frames()) if kind == "clip" else frames().permute(0, 3, 1, 2).float() / 127.5 - 1
    out = reference(**inputs, pixel_values=pixel_values)
    assert torch.allclose(model.of_frames(frames()) @ texts.T, out.image_embeds @ out.text_embeds.T, atol=1e-5)


def test_siglip_2_pads_with_its_padding_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = write_tiny_embedder(tmp_path, "siglip")
    monkeypatch.setattr(embedder, "SIGLIP_2_TOKENS", 8)  # its vocabulary is known by its size
    model = load_embedder(tmp_path, torch.float32, "cpu")
    ids = model.token_ids("who")[0]
    out = reference.get_text_features(torch.tensor([[*ids, *[0] * (MAX_TOKENS - len(ids))]])).pooler_output
    assert torch.allclose(model.of_texts(["who"])[0], torch.nn.functional.normalize(out, dim=-1), atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_frames_of_another_size_are_resized(kind: str, tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path, kind)
    model = load_embedder(tmp_path, torch.float32, "cpu")
    grey = torch.full((1, 56, 56, 3), 90, dtype=torch.uint8)
    assert torch.allclose(model.of_frames(grey), model.of_frames(grey[:, :28, :28]), atol=1e-5)
    assert torch.allclose(model.of_frames(frames(2, 56)).norm(dim=1), torch.ones(2))


@torch.no_grad()
def test_matching_logits_match_transformers(tmp_path: Path) -> None:
    reference = write_tiny_matcher(tmp_path)
    model = load_matcher(tmp_path, "cpu")
    vision = load_vision_encoder(read_matcher_config(tmp_path), tmp_path)
    visual = model.visual(vision(pixels(frames())))
    ids, cut = model.tokenize(TEXTS)
    assert cut == [False, False, True] and len(ids[2]) == MAX_TOKENS
    for text in range(3):
        inputs = {
            "input_ids": torch.tensor([ids[text]] * 3),
            "attention_mask": torch.ones(3, len(ids[text]), dtype=torch.int64),
        }
        out = reference(pixel_values=pixels(frames()), **inputs, use_image_text_matching_head=True).logits_per_image
        assert torch.allclose(model.score(visual, [ids[text]] * 3), out, atol=1e-4)
        assert torch.allclose(model.score(visual, ids)[text], out[text], atol=1e-4)  # in a batch of different lengths


def test_a_folder_of_another_model_or_with_missing_tensors_is_one_error(tmp_path: Path) -> None:
    clip, matcher = tmp_path / "clip", tmp_path / "matcher"
    write_tiny_embedder(clip, "clip")
    write_tiny_matcher(matcher)
    assert describe_embedder(clip) == {"model": "clip", "image_size": 28, "n_tokens": 5, "width": 24}
    assert describe_matcher(matcher)["feature_shape"] == [5, 32]
    with pytest.raises(CheckpointError, match=r"model_type is 'blip-2'; expected a CLIP or SigLIP"):
        describe_embedder(matcher)
    with pytest.raises(
        CheckpointError, match="no BLIP-2 whose Q-Former reads text; expected one for image-text matching"
    ):
        describe_matcher(clip)
    content = json.loads((clip / "config.json").read_text())
    without = {**content, "vision_config": {**content["vision_config"]}}
    del without["vision_config"]["num_attention_heads"]  # transformers defaults to 12
    (clip / "config.json").write_text(json.dumps(without))
    with pytest.raises(CheckpointError, match=r"not a valid configuration: .*\(12\)"):
        describe_embedder(clip)
    content["text_config"]["num_hidden_layers"] = 3
    (clip / "config.json").write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match="does not have exactly the tensors of this model's CLIP or SigLIP: 16 missing"
    ):
        describe_embedder(clip)
    (matcher / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not found; the fast tokenizer"):
        describe_matcher(matcher)
