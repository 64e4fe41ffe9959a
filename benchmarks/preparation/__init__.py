"""Shards prepared on one machine, in parts and on a cluster, held against one another."""
