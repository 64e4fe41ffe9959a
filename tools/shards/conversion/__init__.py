"""A source of images -> shards: what is planned, a shard written, and what stands beside all of them."""
