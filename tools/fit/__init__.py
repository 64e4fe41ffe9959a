"""Schedules that fit a budget of time."""
