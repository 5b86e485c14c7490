"""GPU optimisations of Flan-T5, tested on a CPU: official logits within the usual tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.models import t5_language
from pipeline.models.localizer import Localizer
from tests.reference import PARITY, Reference


def logits_of_yes(reference: Reference, localizer: Localizer) -> Tensor:
    videos = reference.inputs["video_index"]
    visual = reference.visual(localizer)[videos]
    ids = [ids for ids in reference.tokens("loc_input").token_ids for _ in range(visual.shape[1])]
    return localizer.score(visual.flatten(0, 1), ids).logit_yes


def test_fused_norms_give_the_official_logits() -> None:
    reference = Reference(PARITY)
    localizer = reference.localizer
    t5_language._fuse_norms(localizer.language.model)
    n_blocks = sum(len(stack.block) for stack in (localizer.language.model.encoder, localizer.language.model.decoder))
    norms = [part for part in localizer.language.model.modules() if isinstance(part, nn.RMSNorm)]
    assert len(norms) > n_blocks and not any(norm.weight.is_meta for norm in norms)
    yes = logits_of_yes(reference, localizer).numpy()
    np.testing.assert_allclose(yes.ravel(), reference.golden["A_loc_yes_logit"].ravel(), rtol=0, atol=5e-5)


def test_rows_padded_to_a_multiple_give_the_official_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(PARITY)
    localizer = reference.localizer
    monkeypatch.setattr(localizer.language, "_multiple", t5_language.MULTIPLE)
    widths = []
    encode = localizer.language.encode
    monkeypatch.setattr(
        localizer.language, "encode", lambda inputs: widths.append(inputs.mask.shape[1]) or encode(inputs)
    )
    yes = logits_of_yes(reference, localizer).numpy()
    assert widths and all(width % 8 == 0 for width in widths)
    np.testing.assert_allclose(yes.ravel(), reference.golden["A_loc_yes_logit"].ravel(), rtol=0, atol=5e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 5e-5), ("bfloat16", 0.5), ("int8", 0.5), ("fp8", 1.0)]
)
def test_a_gpu_gives_the_official_logits(precision: str, tolerance: float) -> None:
    from benchmarks.parity import parity

    differences = parity(precision, "cuda")
    assert max(differences["logit_yes"], differences["option_logits"]) < tolerance
