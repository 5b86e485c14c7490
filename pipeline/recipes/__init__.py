"""Recipes that come with the package, what is checked of one before hours of work, and what its chain returns."""
