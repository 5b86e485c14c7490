"""The package's recipes, how a recipe is opened and checked before it runs, and what its chain requires and returns."""
