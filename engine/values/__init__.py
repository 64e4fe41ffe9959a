"""What a person writes into a configuration: its text, and the numbers that stand for auto."""
