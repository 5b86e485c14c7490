from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.localizer import Localizer
from pipeline.models.prompts import localize_prompt
from tests.reference import PARITY, Reference

REFERENCE = Reference(PARITY)


def test_scores_are_one_row_per_question_and_frame_in_float32(localizer: Localizer) -> None:
    features = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float32).half()
    token_ids = localizer.language.verbalizer.tokenize([localize_prompt("why", ["a", "b"])] * 3).token_ids
    scores = localizer.score(localizer.visual(features), token_ids)
    assert all(values.shape == (3,) and values.dtype == torch.float32 for values in scores)
    assert len(scores.logit_yes.unique()) == 3  # random weights score frames differently
    assert ((scores.probability_yes > 0) & (scores.probability_yes < 1)).all()


@settings(max_examples=15)
@given(rows=st.lists(st.integers(min_value=0, max_value=31), min_size=1, max_size=12))
def test_scores_do_not_depend_on_the_batch(rows: list[int]) -> None:
    visual = REFERENCE.visual(REFERENCE.localizer)[REFERENCE.inputs["video_index"]].flatten(0, 1)
    token_ids = [ids for ids in REFERENCE.tokens("loc_input").token_ids for _ in range(REFERENCE.videos.shape[1])]
    scores = REFERENCE.localizer.score(visual[rows], [token_ids[row] for row in rows])
    expected = torch.from_numpy(REFERENCE.golden["A_loc_yes_logit"]).flatten()[rows]
    torch.testing.assert_close(scores.logit_yes, expected, rtol=0, atol=1e-5)


def test_visual_tokens_do_not_depend_on_the_batch() -> None:
    frames = REFERENCE.features.flatten(0, 1)
    together = REFERENCE.localizer.visual(frames)
    for row in range(len(frames)):
        alone = REFERENCE.localizer.visual(frames[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
