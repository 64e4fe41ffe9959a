"""Compiled: the files of a whole batch are read in one call, and their headers looked at."""
