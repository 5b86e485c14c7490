from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cache.errors import CheckpointError
from pipeline.models.config import read_blip2_config

# Fields in which files on the hub, written by transformers 4, differ from those of transformers 5.
HUB_STYLE: dict[str, Any] = {
    "architectures": ["Blip2ForConditionalGeneration"],
    "model_type": "blip-2",
    "num_query_tokens": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": None,
    "use_decoder_only_language_model": False,
    "vision_config": {"model_type": "blip_2_vision_model", "dropout": 0.0, "num_channels": 3, "top_k": 50},
    "qformer_config": {"model_type": "blip_2_qformer", "position_embedding_type": "absolute", "max_length": 20},
    "text_config": {
        "_name_or_path": "google/flan-t5-xl",
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "d_ff": 5120,
        "d_model": 2048,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu",
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "n_positions": 512,
        "num_decoder_layers": 24,
        "num_heads": 32,
        "num_layers": 24,
        "output_past": True,
        "task_specific_params": {"summarization": {"max_length": 200, "num_beams": 4}},
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    },
}


def written(folder: Path, content: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_sizes_of_the_papers_model_are_read_from_a_hub_config(tmp_path: Path) -> None:
    config = read_blip2_config(written(tmp_path, HUB_STYLE))
    assert config.image_size == 224
    assert config.feature_shape == (257, 1408)
    assert (config.vision.num_hidden_layers, config.vision.layer_norm_eps) == (39, 1e-6)
    assert (config.qformer.num_hidden_layers, config.qformer.layer_norm_eps) == (12, 1e-12)
    assert (config.text.d_model, config.text.vocab_size, config.text.layer_norm_epsilon) == (2048, 32128, 1e-6)
    assert config.num_query_tokens == 32
    assert config.text.dense_act_fn == "gelu"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (None, "model_type", "instructblip"),
        ("text_config", "model_type", "bloom"),
        ("text_config", "feed_forward_proj", "relu"),
        ("qformer_config", "use_qformer_text_input", True),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, section: str | None, key: str, value: Any) -> None:
    content = json.loads(json.dumps(HUB_STYLE))
    (content[section] if section else content)[key] = value
    with pytest.raises(CheckpointError, match=rf"{key} is {value!r}, expected .*blip2-flan-t5-xl"):
        read_blip2_config(written(tmp_path, content))


def test_invalid_sizes_are_refused(tmp_path: Path) -> None:
    content = json.loads(json.dumps(HUB_STYLE))
    content["vision_config"]["hidden_size"] = "wide"
    with pytest.raises(CheckpointError, match="not a valid configuration"):
        read_blip2_config(written(tmp_path, content))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_an_unreadable_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="not readable as a JSON object"):
        read_blip2_config(tmp_path)


def test_a_config_of_another_file_kind_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(CheckpointError, match=r"config\.json: .*: packed by gzip"):
        read_blip2_config(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: not found"):
        read_blip2_config(tmp_path)


def test_the_image_size_can_be_a_pair_only_if_it_is_square(tmp_path: Path) -> None:
    content = json.loads(json.dumps(HUB_STYLE))
    content["vision_config"]["image_size"] = [224, 224]
    assert read_blip2_config(written(tmp_path, content)).vision.image_size == 224
    content["vision_config"]["image_size"] = [224, 112]
    with pytest.raises(CheckpointError, match="must be squares"):
        read_blip2_config(written(tmp_path, content))


def test_unknown_keys_of_a_config_have_no_effect(tmp_path: Path) -> None:
    """transformers could run a kernel from the hub, load in another dtype, or compute another attention."""
    hostile = {
        "attn_implementation": "kernels-community/flash-attn",
        "_attn_implementation": "kernels-community/flash-attn",
        "dtype": "float16",
        "torch_dtype": "float16",
        "auto_map": {"AutoConfig": "evil--code.Config"},
        "quantization_config": {"quant_method": "bitsandbytes"},
        "scale_decoder_outputs": True,
        "num_labels": 10**12,
        "use_kernel": True,
        "gradient_checkpointing": True,
    }
    content = json.loads(json.dumps(HUB_STYLE)) | hostile
    for section in ("vision_config", "qformer_config", "text_config"):
        content[section] |= hostile
    plain, config = (read_blip2_config(written(tmp_path, values)) for values in (HUB_STYLE, content))
    for name in ("vision", "qformer", "text"):
        assert getattr(config, name).to_dict() == getattr(plain, name).to_dict()
        assert getattr(config, name)._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "value", [10**12, -1, 0, 1.5, "many", True, [], [224, 112], {}, float("nan"), "1" * 10_000, [[224] * 100] * 100]
)
@pytest.mark.parametrize(
    "key",
    [
        "vision_config.hidden_size",
        "vision_config.image_size",
        "vision_config.num_hidden_layers",
        "vision_config.layer_norm_eps",
        "vision_config.hidden_act",
        "qformer_config.num_attention_heads",
        "qformer_config.cross_attention_frequency",
        "text_config.vocab_size",
        "text_config.num_layers",
        "text_config.d_kv",
        "num_query_tokens",
    ],
)
def test_an_absurd_value_is_one_error_with_its_key(key: str, value: Any, tmp_path: Path) -> None:
    content = json.loads(json.dumps(HUB_STYLE))
    *section, name = key.split(".")
    (content[section[0]] if section else content)[name] = value
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{name}") as error:
        read_blip2_config(written(tmp_path, content))
    assert "\n" not in str(error.value) and len(str(error.value)) < 1_000


@pytest.mark.parametrize("section", ["vision_config", "qformer_config", "text_config"])
@pytest.mark.parametrize("value", [[1], "text", 7, True])
def test_a_section_that_is_not_an_object_is_refused(section: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json: {section} is a "):
        read_blip2_config(written(tmp_path, HUB_STYLE | {section: value}))


@pytest.mark.parametrize("epsilon", [1e-5, 1e-6, None])
def test_an_unofficial_epsilon_of_the_vit_norms_logs_one_warning(
    epsilon: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vision = HUB_STYLE["vision_config"] | ({} if epsilon is None else {"layer_norm_eps": epsilon})
    (tmp_path / "config.json").write_text(json.dumps(HUB_STYLE | {"vision_config": vision}))
    for _ in range(2):
        read_blip2_config(tmp_path)
    warnings = [message for message in caplog.messages if "layer_norm_eps is 1e-05; released SeViLA weights" in message]
    assert len(warnings) == len(caplog.messages) == (1 if epsilon == 1e-5 else 0)
