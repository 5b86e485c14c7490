"""The HTML report of a run, or of a comparison of two: numbers, plots, and every question with its frames."""
