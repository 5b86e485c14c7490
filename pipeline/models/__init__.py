"""Torch modules, prompts, tokenization and checkpoints."""
