"""A schedule before its run."""
