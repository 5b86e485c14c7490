"""Torch modules, prompts, tokens and checkpoints: tensors in, tensors out."""
