"""Score frames that are at hand as a tensor: `python examples/score_a_tensor.py FOLDER` of a BLIP-2 with Flan-T5."""

import sys

import torch

import sevila

localizer = sevila.Localizer.load(sys.argv[1])  # a second argument: sevila_pretrained.pth
frames = torch.randint(0, 256, (16, 224, 224, 3), dtype=torch.uint8)  # yours: [T, H, W, 3], RGB
scores = localizer.score(frames, "What does the man carry?", ["a bag", "a dog"])
keyframes = sevila.select(scores.logit_yes, "top_k", k=4)
print("keyframes", keyframes, "with logits of yes", scores.logit_yes[keyframes])
