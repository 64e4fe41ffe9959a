"""The work of a command in parts: by any job array over a shared folder, or over a Ray cluster."""
