"""Shards in stores: the same weights from each, each host fetching each shard once, and what happens when it fails."""
