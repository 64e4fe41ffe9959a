"""Every decision about the input as arrays, from counters and keys alone; nothing here reads an image."""
