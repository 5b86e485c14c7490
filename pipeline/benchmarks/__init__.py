"""Matrices of the nightly benchmark that come with the package, and the tolerances by which a night is worse."""
