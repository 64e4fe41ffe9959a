"""Runs and studies as an HTML page."""
