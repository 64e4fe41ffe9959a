"""Which weights of a trained model its data determine, and how sharply."""
