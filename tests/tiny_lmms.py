"""A tiny LLaVA of random weights as a model of lmms-eval, found by its entry point; runs in lmms-eval's own environment.

It reads evenly spaced frames, as lmms-eval's models do, and writes its frames, prompts and replies to a file.
"""

from pathlib import Path

import numpy as np
import torch
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.load_video import read_video
from lmms_eval.models.registry_v2 import ModelManifest
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN, SIDE, LETTERS = 1, 32, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def manifest() -> ModelManifest:
    return ModelManifest(model_id="tiny_llava", simple_class_path="tiny_lmms.TinyLlava")


class TinyLlava(lmms):
    def __init__(self, max_frames_num: int, seen: str, **_: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=16,
            projection_dim=16,
        )
        text = LlamaConfig(
            vocab_size=256,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        self.model = LlavaForConditionalGeneration(
            LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
        ).eval()
        self.k, self.seen = int(max_frames_num), Path(seen)

    @torch.inference_mode()
    def generate_until(self, requests):
        seen, replies = {}, []
        for context, _, doc_to_visual, doc_id, task, split in [request.args for request in requests]:
            doc = self.task_dict[task][split][doc_id]
            (path,) = doc_to_visual(doc)
            frames = read_video(path, num_frm=self.k)
            letter = self._letter(frames, context, len(doc["options"]))
            replies.append("no idea" if doc["type"] == "motion" else f"The answer is {letter}.")
            seen[f"{doc['question_id']} frames"] = frames
            seen[f"{doc['question_id']} reply"] = np.array(replies[-1])
            seen[f"{doc['question_id']} context"] = np.array(context)
        np.savez(self.seen, **seen)
        return replies

    def _letter(self, frames: np.ndarray, context: str, n_options: int) -> str:
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        pixels = torch.nn.functional.interpolate(pixels, (SIDE, SIDE))
        words = [byte for byte in context.encode() if byte != IMAGE_TOKEN]
        ids = torch.tensor([[IMAGE_TOKEN] * (4 * len(frames)) + words])
        logits = self.model(input_ids=ids, pixel_values=pixels).logits[0, -1]
        return LETTERS[int(logits[[ord(letter) for letter in LETTERS[:n_options]]].argmax())]

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError
