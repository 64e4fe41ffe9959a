"""Throughput per stage of the schedule."""
