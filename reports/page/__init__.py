"""The HTML report of a run, or of two side by side: numbers, plots and every question with its frames."""
