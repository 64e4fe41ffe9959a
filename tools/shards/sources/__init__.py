"""Where images come from: each file but ``source.py`` and ``table.py`` is one kind of source, and declares it."""
