"""A language model with 8-bit products: its layers, its accuracy, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cache.errors import CheckpointError, SevilaError
from pipeline import precision as precisions
from pipeline.engine.recipe import load
from pipeline.models.config import read_blip2_config
from pipeline.models.eight_bits import EIGHT_BIT_DTYPES, EightBitLinear, load_language_in, to_eight_bits
from pipeline.models.language import Language
from pipeline.models.prompts import numbered_frame_prefixes
from pipeline.precision import EIGHT_BITS, why_not_on
from stages.all import STAGES
from tests.tiny_blip2 import write_tiny_blip2

BOTH = pytest.mark.parametrize("precision", EIGHT_BITS)
ROUNDING = {"int8": 0.02, "fp8": 0.06}  # relative to the norm; random numbers give 0.011 and 0.037


@pytest.fixture(scope="module", params=["t5", "opt", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny_blip2(folder, seed=3, language=request.param)
    return folder


def load_tiny(folder: Path, precision: str) -> Language:
    return load_language_in(precision, read_blip2_config(folder), folder, "cpu")


@torch.no_grad()
def logits(language: Language) -> torch.Tensor:
    visual = torch.randn(3, 2, 4, 32, generator=torch.Generator().manual_seed(0))
    ids = language.verbalizer.tokenize(["yes", "Question: why?", "Option A"]).token_ids
    inputs = language.assemble(numbered_frame_prefixes(2), visual, ids)
    return language.decode(language.encode(inputs), inputs.mask, language.decoder_ids(3))


@BOTH
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_equals_that_of_the_layer_up_to_rounding(precision: str, bias: bool) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(64, 48, bias=bias).bfloat16(), torch.randn(5, 7, 64).bfloat16()
    language = nn.Sequential(layer)
    reduced = EightBitLinear(layer, EIGHT_BIT_DTYPES[precision])
    with torch.no_grad():
        expected, outputs = language(inputs), reduced(inputs)
        assert outputs.shape == expected.shape and outputs.dtype == torch.bfloat16
        assert 0 < (outputs - expected).float().norm() < ROUNDING[precision] * expected.float().norm()
        scaled = reduced(inputs * torch.logspace(-20, 20, 7)[:, None].bfloat16())
        alone = reduced(inputs[:1, :1])
    torch.testing.assert_close(alone, outputs[:1, :1], rtol=0, atol=0)  # a row does not depend on other rows
    assert scaled.isfinite().all()


@BOTH
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_does_not_change_other_rows(precision: str, value: float) -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(32, 16).bfloat16(), torch.randn(4, 32).bfloat16()
    reduced = EightBitLinear(layer, EIGHT_BIT_DTYPES[precision])
    with torch.no_grad():
        expected = reduced(inputs)
        inputs[1, 5], inputs[2] = value, 0
        outputs = reduced(inputs)
    assert not outputs[1].isfinite().any()
    torch.testing.assert_close(outputs[[0, 3]], expected[[0, 3]], rtol=0, atol=0)
    torch.testing.assert_close(outputs[2], layer.bias)


@BOTH
def test_only_reading_blocks_have_eight_bit_products(folder: Path, precision: str) -> None:
    language, exact = load_tiny(folder, precision), load_tiny(folder, "bfloat16")
    reduced = {name for name, module in language.model.named_modules() if isinstance(module, EightBitLinear)}
    blocks = {id(module) for module in language.reading_blocks.modules()}
    kept = dict(exact.model.named_modules())
    for name, module in language.model.named_modules():
        if name in reduced:
            assert id(module) in blocks and module.weight.dtype.itemsize == 1, name
        elif isinstance(module, nn.Linear):
            assert id(module) not in blocks or name.endswith((".wo", ".fc2", ".down_proj")), name
            torch.testing.assert_close(module.weight, kept[name].weight, rtol=0, atol=0)  # type: ignore[arg-type]
    assert reduced and language.dtype == torch.bfloat16 and language.model.lm_head.weight.dtype == torch.float32


@BOTH
def test_logits_are_close_to_float32(folder: Path, precision: str) -> None:
    expected, reduced = logits(load_tiny(folder, "float32")), logits(load_tiny(folder, precision))
    assert reduced.dtype == torch.float32 and not torch.equal(reduced, logits(load_tiny(folder, "bfloat16")))
    torch.testing.assert_close(reduced, expected, rtol=0, atol=0.1 * expected.abs().max().item())


def test_layers_of_unsupported_width_are_refused_by_name(folder: Path) -> None:
    language = load_tiny(folder, "bfloat16")
    name, layer = next(
        (name, layer) for name, layer in language.reading_blocks.named_modules() if isinstance(layer, nn.Linear)
    )
    language.reading_blocks.set_submodule(name, nn.Linear(layer.in_features, 24, dtype=torch.bfloat16))
    with pytest.raises(CheckpointError, match=f"{name} has size 32 x 24; int8 requires multiples of 16"):
        to_eight_bits(language, "int8")


@BOTH
def test_an_unsupported_gpu_is_named_with_its_precisions(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "V100")
    problem = why_not_on(precision, "cuda:1")
    expected = ".".join(map(str, precisions.LEAST_CAPABILITY[precision]))
    assert f"compute capability {expected}, and cuda:1, a V100, has 7.0; choose " in problem
    assert ("int8 or bfloat16" in problem) == (precision == "fp8")
    assert why_not_on(precision, "cpu") == why_not_on("bfloat16", "cuda:1") == ""


@BOTH
def test_training_refuses_eight_bits_with_advice(precision: str) -> None:
    trainings = [name for name, stage in STAGES.items() if "gradient_checkpointing" in stage.config.model_fields]
    assert {"refine_localizer", "finetune_answerer"} <= set(trainings)
    for name in trainings:
        with pytest.raises(SevilaError, match=f"{precision} is for inference only.* train in bfloat16 or float32"):
            load("plain", STAGES, [f"{name}.precision={precision}"])
