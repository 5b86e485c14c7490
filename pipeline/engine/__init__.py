"""The stage contract: what a stage, a recipe and a source are, how one artifact is built, and the ways to walk a chain."""
