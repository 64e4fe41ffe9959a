"""Where the units of a JPEG lie, and a JPEG of only some of them: lossless surgery on bytes, without a decoder."""
