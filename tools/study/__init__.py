"""Variants of a run over seeds, compared."""
