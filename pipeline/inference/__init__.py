"""Inference: models loaded from artifacts, fed with cached features and run in batches; other video-language models."""
