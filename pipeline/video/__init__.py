"""Videos: frame sampling, probing of files for content and damage, and decoding in separate processes."""
