"""The files: tars, their index, and the bytes of samples."""
