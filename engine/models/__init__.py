"""timm's Vision Transformers, started from kept patches, and their weights."""
