"""Selection: frame scores (and vectors) in, frame positions or moments out; pure functions, one file per method."""
