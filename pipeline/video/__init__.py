"""Videos: frame sampling, probing of files for content and damage, decoding in processes, storing and exporting of frames."""
