"""Matrices of the nightly benchmark that come with the package, and when a night is worse than those before."""
