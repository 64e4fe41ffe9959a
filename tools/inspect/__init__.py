"""One step of a run, as numbers and a picture."""
