"""``append``: shards that arrive later, added to a set of them."""
