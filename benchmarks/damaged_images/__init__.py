"""Image files of every format that shards hold, damaged, and whether conversion, check and loader agree on them."""
