"""Choosing: scores in, frame numbers or moments out; pure functions."""
