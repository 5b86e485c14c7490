"""Choosing: scores (and vectors) of frames in, frame numbers or moments out; pure functions, one file a method."""
