"""Shapes: a synthetic world of coloured shapes that come, move and go, in which the whole of SeViLA learns on two cores."""
