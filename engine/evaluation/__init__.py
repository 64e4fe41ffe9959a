"""A model held against images: validation, trained runs, inference."""
