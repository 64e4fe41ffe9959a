"""The same samples at smaller sizes, beside their shards: made and checked."""
