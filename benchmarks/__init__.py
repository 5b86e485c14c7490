"""Benchmarks of the pipeline: one command each and what they share, no assertions; results go to docs/performance.md."""
