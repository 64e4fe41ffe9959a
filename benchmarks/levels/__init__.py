"""The loader on images that stand at several sizes, beside the full size alone."""
