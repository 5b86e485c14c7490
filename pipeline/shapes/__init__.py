"""Shapes: a synthetic world of moving coloured shapes, in which all of SeViLA's models train on two CPU cores."""
