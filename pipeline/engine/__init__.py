"""The stage contract: stages, recipes and sources, how one artifact is built, and the ways to run a chain."""
