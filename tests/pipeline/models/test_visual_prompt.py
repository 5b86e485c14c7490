from __future__ import annotations

import pytest
import torch

from pipeline.models.checkpoint import load_visual_prompt
from pipeline.models.visual_prompt import VisualPrompt
from tests.reference import Reference


def test_the_layer_norm_has_the_official_epsilon(reference: Reference) -> None:
    assert reference.localizer.prompt.layer_norm.eps == 1e-5
    assert reference.config.vision.layer_norm_eps == 1e-6
    assert reference.localizer.prompt.qformer.layernorm.eps == 1e-12


def test_projecting_stored_queries_equals_the_full_prompt(reference: Reference) -> None:
    prompt, features = reference.localizer.prompt, reference.features[0]
    assert torch.equal(prompt.project(prompt.query(features)), prompt(features))


def test_a_new_prompt_has_different_query_tokens(reference: Reference) -> None:
    config = reference.config
    prompt = VisualPrompt(config.qformer, config.num_query_tokens, config.text.d_model)
    assert len(prompt.query_tokens[0].unique(dim=0)) == config.num_query_tokens


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_keeps_parameters_and_output_in_float32(dtype: torch.dtype, reference: Reference) -> None:
    prompt = load_visual_prompt(reference.config, reference.weights, "localizer")
    prompt.compute_dtype = dtype
    features = reference.features[0]
    output = prompt(features.to(dtype))
    assert output.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in prompt.parameters())
    exact = reference.localizer.prompt(features)
    assert not torch.equal(output, exact)
    torch.testing.assert_close(output, exact, rtol=0, atol=0.05 * exact.abs().max().item())


def test_gradients_reach_every_trained_parameter_in_reduced_precision(reference: Reference) -> None:
    prompt = load_visual_prompt(reference.config, reference.weights, "localizer").train()
    prompt.compute_dtype = torch.bfloat16
    prompt(reference.features[0]).square().sum().backward()
    names = [name for name, parameter in prompt.named_parameters() if parameter.grad is None]
    assert names == []
