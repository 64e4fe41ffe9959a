"""Compiled: JPEGs are looked through and put together for a whole batch in one call."""
