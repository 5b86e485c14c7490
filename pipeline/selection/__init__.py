"""Choosing frames: scores in, frame numbers out; pure functions, one file a method."""
