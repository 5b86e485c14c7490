"""Measurements of the pipeline's costs: one command each, no assertions; figures go to docs/performance.md."""
