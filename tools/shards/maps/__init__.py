"""Score maps beside shards, of every kind."""
