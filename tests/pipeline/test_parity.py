"""Parity with the official code: 5e-5 absolute on hidden states and logits, equal keyframes and answers;
1e-5 relative on training losses and gradients.

All expected values were computed by the official SeViLA code; tests/golden/README.md explains how, and the prefixes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.metrics.localization_metrics import inside
from pipeline.models.answerer import Answerer, AnswererOutput
from pipeline.models.language import LanguageInput
from pipeline.models.localizer import Localizer, LocalizerScores
from pipeline.models.prompts import PROMPT_STYLES, numbered_frame_prefixes, single_frame_prefixes
from pipeline.selection.top_k import top_k_positions
from pipeline.video.frames import Clip, UniformSampling, sample_clip
from tests.official_names import official_name
from tests.reference import Reference

TOLERANCE = 5e-5
RELATIVE = 1e-5
# Attention does not depend on the bias of its keys: its gradients are rounding errors, about 1e-8 in both codes.
NOISE = 1e-6


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest) -> Reference:
    return Reference(request.config.getoption("--parity-dir"))


def assert_close(actual: Tensor | np.ndarray, expected: np.ndarray) -> None:
    actual = actual.detach().numpy() if isinstance(actual, Tensor) else actual
    np.testing.assert_allclose(actual.reshape(expected.shape), expected, rtol=0, atol=TOLERANCE)


def videos_of_questions(reference: Reference) -> list[int]:
    return reference.inputs["video_index"]


def scores_of_all_frames(reference: Reference) -> LocalizerScores:
    """One row per (question, frame), questions outermost."""
    visual = reference.visual(reference.localizer)[videos_of_questions(reference)]  # [questions, frames, Q, L]
    n_frames = visual.shape[1]
    token_ids = [ids for ids in reference.tokens("loc_input").token_ids for _ in range(n_frames)]
    return reference.localizer.score(visual.flatten(0, 1), token_ids)


def visual_of_frames(reference: Reference, frames: np.ndarray) -> Tensor:
    """The Answerer's visual tokens [questions, K, Q, L] of the frames [questions, K]."""
    visual = reference.visual(reference.answerer)
    rows = zip(videos_of_questions(reference), frames, strict=True)
    return torch.stack([visual[video, torch.from_numpy(chosen)] for video, chosen in rows])


def answers(reference: Reference, visual: Tensor, prefixes: list[str]) -> AnswererOutput:
    """Answers to questions repeated as often as `visual` [rows, K, Q, L] has rows for each."""
    token_ids = reference.tokens("qa_input").token_ids
    repeats = len(visual) // len(token_ids)
    repeated = [ids for ids in token_ids for _ in range(repeats)]
    # The official code reads all letters, whatever the number of options.
    n_options = [len(reference.sizes["answer_id"])] * len(repeated)
    return reference.answerer.answer(visual, repeated, n_options, prefixes)


def keyframe_input(reference: Reference) -> LanguageInput:
    """Encoder input of the Answerer for the official keyframes."""
    frames = reference.golden["A_frame_idx"]
    token_ids = reference.tokens("qa_input").token_ids
    prefixes = numbered_frame_prefixes(frames.shape[1])
    return reference.answerer.language.assemble(prefixes, visual_of_frames(reference, frames), token_ids)


def frame_input(reference: Reference) -> LanguageInput:
    """Encoder input of the Localizer: one row per (question, frame)."""
    visual = reference.visual(reference.localizer)[videos_of_questions(reference)]
    token_ids = [ids for ids in reference.tokens("loc_input").token_ids for _ in range(visual.shape[1])]
    return reference.localizer.language.assemble(single_frame_prefixes(), visual.flatten(0, 1).unsqueeze(1), token_ids)


def options_of(annotation: dict) -> list[str]:
    return [annotation[f"a{index}"] for index in range(len(annotation)) if f"a{index}" in annotation]


def test_the_verbalizer_has_the_official_token_ids(reference: Reference) -> None:
    words, sizes = reference.verbalizer, reference.sizes
    assert words.letter_ids[: len(sizes["answer_id"])] == tuple(sizes["answer_id"])
    assert (words.yes_id, words.no_id, words.option_id) == (sizes["yes_id"], sizes["no_id"], sizes["option_id"])


def test_every_tokenizer_call_matches_the_official_code(reference: Reference) -> None:
    for call in reference.texts["A_tokenizer_calls"]:
        if call["text"][0].startswith("Frame"):
            token_ids = reference.verbalizer.tokenize_prefixes(call["text"])
        else:
            token_ids = reference.verbalizer.tokenize(call["text"], reference.sizes["max_txt_len"]).token_ids
        masks = zip(call["input_ids"], call["attention_mask"], strict=True)
        assert token_ids == [[token for token, seen in zip(*row, strict=True) if seen] for row in masks]


def test_multiple_choice_prompts_match_the_official_code(reference: Reference) -> None:
    style = PROMPT_STYLES["multiple_choice"]
    for annotation, sample in zip(reference.inputs["annotations"], reference.inputs["samples"], strict=True):
        options = options_of(annotation)
        assert style.answer(annotation["question"], options) == sample["qa_input"]
        assert style.localize(annotation["question"], options, "necessary_details") == sample["loc_input"]


def test_next_event_prompts_match_the_official_code(reference: Reference) -> None:
    style = PROMPT_STYLES["next_event"]
    for annotation, item in zip(reference.inputs["vlep_annotations"], reference.texts["vlep_items"], strict=True):
        options = options_of(annotation)
        assert style.answer(annotation["question"], options) == item["qa_input"]
        assert style.localize(annotation["question"], options, "necessary_details") == item["loc_input"]


def test_moment_prompts_match_the_official_code(reference: Reference) -> None:
    style = PROMPT_STYLES["moment"]
    for annotation, item in zip(reference.inputs["qvh_annotations"], reference.texts["qvh_items"], strict=True):
        assert style.answer(annotation["query"], ["yes", "no"]) == item["qa_input"]
        assert style.localize(annotation["query"], ["yes", "no"], "necessary_details") == item["loc_input"]


def test_features_before_layer_norm_match_the_official_code(reference: Reference) -> None:
    assert_close(reference.features, reference.golden["A_vit_out"])


def test_normalised_features_of_localizer_and_answerer_match_the_official_code(reference: Reference) -> None:
    assert_close(reference.localizer.prompt.layer_norm(reference.features), reference.golden["A_ln_vision_loc"])
    assert_close(reference.answerer.prompt.layer_norm(reference.features), reference.golden["A_ln_vision"])


def test_visual_tokens_of_the_localizer_match_the_official_code(reference: Reference) -> None:
    queried = reference.localizer.prompt.query(reference.features.flatten(0, 1))
    assert_close(queried, reference.golden["A_qformer_loc"])
    assert_close(reference.visual(reference.localizer), reference.golden["A_t5_proj_loc"])


def test_visual_tokens_of_the_answerer_match_the_official_code(reference: Reference) -> None:
    frames = reference.golden["A_frame_idx"]
    rows = zip(videos_of_questions(reference), frames, strict=True)
    features = torch.cat([reference.features[video, torch.from_numpy(chosen)] for video, chosen in rows])
    assert_close(reference.answerer.prompt.query(features), reference.golden["A_qformer_sel"])
    assert_close(visual_of_frames(reference, frames), reference.golden["A_t5_proj_sel"])


def test_encoder_input_and_mask_match_the_official_code(reference: Reference) -> None:
    for inputs, name in ((frame_input(reference), "loc"), (keyframe_input(reference), "qa")):
        np.testing.assert_array_equal(inputs.mask.numpy(), reference.golden[f"A_{name}_enc_mask"])
        assert_close(inputs.embeddings[0], reference.golden[f"A_{name}_enc_embeds_row0"])


def test_first_decoded_logits_of_the_localizer_match_the_official_code(reference: Reference) -> None:
    language, inputs = reference.localizer.language, frame_input(reference)
    logits = language.decode(language.encode(inputs), inputs.mask, language.decoder_ids(len(inputs.mask)))
    assert_close(logits, reference.golden["A_loc_step0_logits"])


def test_localizer_scores_match_the_official_code(reference: Reference) -> None:
    scores, golden = scores_of_all_frames(reference), reference.golden
    assert_close(scores.logit_yes, golden["A_loc_yes_logit"])
    assert_close(scores.logit_no, golden["A_loc_no_logit"])
    assert_close(scores.probability_yes, golden["A_loc_yes_prob_full_softmax"])
    assert_close(torch.sigmoid(scores.logit_yes - scores.logit_no), golden["A_loc_yes_prob_vs_no"])


def test_keyframes_of_each_ranking_match_the_official_code(reference: Reference) -> None:
    scores, golden = scores_of_all_frames(reference), reference.golden
    rankings = {
        "A_frame_idx": scores.logit_yes,
        "A_topk_by_full_softmax": scores.probability_yes,
        "A_topk_by_yes_vs_no": scores.logit_yes - scores.logit_no,
    }
    n_questions, k = golden["A_frame_idx"].shape
    for name, ranking in rankings.items():
        keyframes = [top_k_positions(row, k) for row in ranking.view(n_questions, -1).numpy()]
        np.testing.assert_array_equal(keyframes, np.sort(golden[name]), err_msg=name)
    np.testing.assert_array_equal(np.sort(golden["A_topk_order"]), golden["A_frame_idx"])  # the same frames, by score


def test_answers_from_keyframes_match_the_official_code(reference: Reference) -> None:
    golden = reference.golden
    frames = golden["A_frame_idx"]
    output = answers(reference, visual_of_frames(reference, frames), numbered_frame_prefixes(frames.shape[1]))
    np.testing.assert_array_equal(output.first_token_id, golden["A_qa_step0_token"])
    assert_close(output.option_logits, golden["A_qa_answer_logits"])
    assert_close(output.option_logits_forced, golden["A_qa_answer_logits_teacher_forced_Option"])
    np.testing.assert_array_equal(output.prediction, golden["A_pred"])


def test_logits_of_the_first_two_answer_tokens_match_the_official_code(reference: Reference) -> None:
    language, inputs, golden = reference.answerer.language, keyframe_input(reference), reference.golden
    decoded_ids = torch.from_numpy(golden["A_qa_sequences"][:, :2])
    assert decoded_ids[:, 0].tolist() == [language.start_id] * len(decoded_ids)
    logits = language.decode(language.encode(inputs), inputs.mask, decoded_ids)
    assert_close(logits[:, 0], golden["A_qa_step0_logits"])
    assert_close(logits[:, 1], golden["A_qa_step1_logits"])
    np.testing.assert_array_equal(logits.argmax(dim=-1), golden["A_qa_sequences"][:, 1:3])


def test_answers_from_one_keyframe_match_the_official_code(reference: Reference) -> None:
    scores, golden = scores_of_all_frames(reference), reference.golden
    n_questions = len(golden["B_frame"])
    best = np.array([top_k_positions(row, 1) for row in scores.logit_yes.view(n_questions, -1).numpy()])
    np.testing.assert_array_equal(best[:, 0], golden["B_frame"])
    output = answers(reference, visual_of_frames(reference, best), single_frame_prefixes())
    assert_close(output.option_logits, golden["B_qa_answer_logits"])
    np.testing.assert_array_equal(output.prediction, golden["B_pred"])


def test_answers_from_the_first_frames_match_the_official_code(reference: Reference) -> None:
    golden = reference.golden
    n_questions, k = golden["A_frame_idx"].shape
    first = np.tile(np.arange(k), (n_questions, 1))
    output = answers(reference, visual_of_frames(reference, first), numbered_frame_prefixes(k))
    assert_close(output.option_logits, golden["C_answer_logits_first_K_frames"])
    np.testing.assert_array_equal(output.prediction, golden["C_pred"])


def test_answers_and_pseudo_labels_of_single_frames_match_the_official_code(reference: Reference) -> None:
    golden = reference.golden
    visual = reference.visual(reference.answerer)[videos_of_questions(reference)].flatten(0, 1).unsqueeze(1)
    output = answers(reference, visual, single_frame_prefixes())
    assert_close(output.option_logits, golden["C2_per_frame_answer_logits"])
    np.testing.assert_array_equal(output.prediction, golden["C2_pred"].ravel())
    assert_close(output.option_logits_forced, golden["D_pseudo_answer_logits"])
    predictions = output.option_logits_forced.argmax(dim=-1).numpy().reshape(golden["D_pseudo_pred"].shape)
    np.testing.assert_array_equal(predictions, golden["D_pseudo_pred"])
    right = np.array([annotation["answer"] for annotation in reference.inputs["annotations"]])
    np.testing.assert_array_equal(predictions == right[:, None], golden["D_pseudo_label_yes"])


def test_moment_scores_match_the_official_code(reference: Reference) -> None:
    golden = reference.golden
    n_frames = reference.videos.shape[1]
    queries = [item["loc_input"] for item in reference.texts["qvh_items"]]
    token_ids = reference.verbalizer.tokenize(queries, reference.sizes["max_txt_len"]).token_ids
    names = [annotation["video"] for annotation in reference.inputs["annotations"]]
    video_of = dict(zip(names, videos_of_questions(reference), strict=True))
    videos = [video_of[annotation["video"]] for annotation in reference.inputs["qvh_annotations"]]
    visual = reference.visual(reference.localizer)[videos].flatten(0, 1)
    scores = reference.localizer.score(visual, [ids for ids in token_ids for _ in range(n_frames)])
    assert_close(scores.logit_yes, golden["G_yes_score"])
    assert_close(scores.logit_yes, np.array(reference.texts["G_out"]["yes_score"]))
    assert_close(scores.logit_no, golden["G_no_logit"])
    np.testing.assert_array_equal(scores.logit_yes > scores.logit_no, golden["G_pred_yes"].ravel())


def test_sampled_frames_match_the_official_code(reference: Reference) -> None:
    for case in reference.texts["uniform_sampling"]:
        clip = Clip(*(case["clip"] or (None, None)))
        sampled = sample_clip(clip, UniformSampling(case["n_frms"]), case["n_video_frames"], case["fps"])
        assert sampled.frame_indices.tolist() == case["indices"], case
        assert sampled.frame_indices.dtype == np.int64


def right_options(reference: Reference) -> list[int]:
    return [ord(sample["qa_output"][-1]) - ord("A") for sample in reference.inputs["samples"]]


def tokens_of(target_ids: list[list[int]]) -> int:
    return sum(len(ids) for ids in target_ids)


def localizer_loss(reference: Reference, videos: list[int], texts: list[str], labels: np.ndarray) -> Tensor:
    """The Localizer's loss on all frames of each question's video; `labels` [questions, frames]."""
    localizer, n_frames = reference.localizer, labels.shape[1]
    visual = localizer.prompt(reference.features[videos].flatten(0, 1))
    token_ids = reference.verbalizer.tokenize(texts, reference.sizes["max_txt_len"]).token_ids
    targets = labels.ravel().tolist()
    loss = localizer.loss(visual, [ids for ids in token_ids for _ in range(n_frames)], targets)
    return loss / tokens_of(localizer.target_ids(targets))


def answerer_loss(reference: Reference, frames: np.ndarray, separately: bool = False) -> Tensor:
    """The Answerer's loss on the frames [questions, K], read together or separately."""
    answerer = reference.answerer
    rows = zip(videos_of_questions(reference), frames, strict=True)
    features = torch.stack([reference.features[video, torch.from_numpy(chosen)] for video, chosen in rows])
    visual = answerer.prompt(features.flatten(0, 1)).unflatten(0, frames.shape)  # [questions, K, Q, L]
    token_ids, right = reference.tokens("qa_input").token_ids, right_options(reference)
    prefixes = numbered_frame_prefixes(frames.shape[1])
    if separately:
        visual, prefixes = visual.flatten(0, 1).unsqueeze(1), single_frame_prefixes()
        token_ids = [ids for ids in token_ids for _ in range(frames.shape[1])]
        right = [option for option in right for _ in range(frames.shape[1])]
    return answerer.loss(visual, token_ids, right, prefixes) / tokens_of(answerer.target_ids(right))


def assert_same_training(reference: Reference, name: str, model: Localizer | Answerer, loss: Tensor) -> None:
    """Compare the loss, gradient norms by parameter and by module, and the stored gradients."""
    part = "localizer" if isinstance(model, Localizer) else "answerer"
    model.prompt.zero_grad()
    loss.backward()
    assert loss.item() == pytest.approx(reference.texts[f"{name}_loss"], rel=RELATIVE)
    gradients = {
        official_name(own, part): parameter.grad.double()
        for own, parameter in model.prompt.named_parameters()
        if parameter.grad is not None
    }
    norms = {parameter: float(gradient.norm()) for parameter, gradient in gradients.items()}
    assert norms == pytest.approx(reference.texts[f"{name}_grad_norm_by_param"], rel=RELATIVE, abs=NOISE)
    modules = {module: 0.0 for module in reference.texts[f"{name}_grad_norm_by_module"]}
    for parameter, norm in norms.items():
        modules[parameter.split(".")[0]] += norm**2
    module_norms = {module: square**0.5 for module, square in modules.items()}
    assert module_norms == pytest.approx(reference.texts[f"{name}_grad_norm_by_module"], rel=RELATIVE)
    # The official code also marks some frozen parts as trainable; they get no gradients in either code.
    assert set(modules) <= set(reference.texts[f"{name}_trainable"])
    for key in [key for key in reference.golden if key.startswith(f"{name}_grad::")]:
        expected = reference.golden[key]
        np.testing.assert_allclose(
            gradients[key.split("::")[1]].numpy(), expected, rtol=0, atol=RELATIVE * np.abs(expected).max()
        )
    frozen = [*model.language.model.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)


def test_refinement_loss_and_gradients_match_the_official_code(
    reference: Reference,
) -> None:
    golden = reference.golden
    visual = reference.visual(reference.answerer)[videos_of_questions(reference)].flatten(0, 1).unsqueeze(1)
    output = answers(reference, visual, single_frame_prefixes())
    right = np.array(right_options(reference))[:, None]
    labels = output.option_logits_forced.argmax(dim=-1).numpy().reshape(golden["D_pseudo_pred"].shape) == right
    np.testing.assert_array_equal(labels, golden["D_pseudo_label_yes"] == 1)
    assert [["yes" if label else "no" for label in row] for row in labels] == reference.texts["D_pseudo_label"]
    np.testing.assert_array_equal(reference.localizer.target_ids(labels.ravel().tolist()), golden["D_loc_labels"])
    texts = [sample["loc_input"] for sample in reference.inputs["samples"]]
    loss = localizer_loss(reference, videos_of_questions(reference), texts, labels)
    assert_same_training(reference, "D_refine", reference.localizer, loss)


def test_fine_tuning_on_keyframes_matches_the_official_loss_and_gradients(reference: Reference) -> None:
    np.testing.assert_array_equal(reference.answerer.target_ids(right_options(reference)), reference.golden["E_labels"])
    loss = answerer_loss(reference, reference.golden["A_frame_idx"])
    assert_same_training(reference, "E_finetune_with_loc", reference.answerer, loss)


def test_fine_tuning_on_the_first_frames_matches_the_official_loss_and_gradients(reference: Reference) -> None:
    n_questions, k = reference.golden["A_frame_idx"].shape
    loss = answerer_loss(reference, np.tile(np.arange(k), (n_questions, 1)))
    assert_same_training(reference, "F_finetune_uniform_vid", reference.answerer, loss)


def test_fine_tuning_on_single_frames_matches_the_official_loss_and_gradients(reference: Reference) -> None:
    n_frames, n_questions = reference.videos.shape[1], len(videos_of_questions(reference))
    loss = answerer_loss(reference, np.tile(np.arange(n_frames), (n_questions, 1)), separately=True)
    assert_same_training(reference, "F2_finetune_per_frame", reference.answerer, loss)


def test_pre_training_matches_the_official_labels_loss_and_gradients(reference: Reference) -> None:
    annotations = reference.inputs["qvh_annotations"]
    seconds = np.array(reference.inputs["qvh_indices"]) / reference.inputs["qvh_fps"]
    labels = np.stack([inside(seconds, annotation["relevant_windows"]).any(axis=1) for annotation in annotations])
    assert ["_".join("yes" if label else "no" for label in row) for row in labels] == reference.texts[
        "qvh_frame_labels"
    ]
    np.testing.assert_array_equal(reference.localizer.target_ids(labels.ravel().tolist()), reference.golden["G_labels"])
    names = [annotation["video"] for annotation in reference.inputs["annotations"]]
    video_of = dict(zip(names, videos_of_questions(reference), strict=True))
    videos = [video_of[annotation["video"]] for annotation in annotations]
    texts = [item["loc_input"] for item in reference.texts["qvh_items"]]
    loss = localizer_loss(reference, videos, texts, labels)
    assert_same_training(reference, "G_qvh_pretrain", reference.localizer, loss)
