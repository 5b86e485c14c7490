"""Benchmarks of the pipeline: one command each, no assertions; results go to docs/performance.md."""
