"""Shards made for, and indexed in, a store."""
