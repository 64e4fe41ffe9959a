"""Addressable JPEGs that are damaged in every way, and what the loader makes of them."""
