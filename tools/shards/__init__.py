"""Shards on the command line."""
