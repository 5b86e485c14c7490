"""Accuracy, coverage, localization, moments and paired statistics: pure functions."""
