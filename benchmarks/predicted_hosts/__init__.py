"""Times that a profile of one host predicts for two, held against runs over lines of known rates."""
