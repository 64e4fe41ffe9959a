"""Times that a profile predicts, held against runs."""
