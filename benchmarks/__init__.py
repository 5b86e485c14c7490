"""What the pipeline costs, measured: one command each, no assertions; figures go to docs/performance.md."""
