"""Selection: frame scores and vectors in, positions or moments out; pure functions, one file per method and what they share."""
