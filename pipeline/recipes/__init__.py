"""Recipes that come with the package, how one is opened, what is checked before hours of work, and what its chain returns."""
