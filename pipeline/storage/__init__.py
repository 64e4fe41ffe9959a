"""Files that lie in a store and are used through a cache on the host's disk."""
