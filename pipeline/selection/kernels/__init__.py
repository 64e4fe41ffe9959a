"""Scores and ranks of patches, compiled by numba."""
