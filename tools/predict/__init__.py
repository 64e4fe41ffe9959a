"""Class names and probabilities for images, by a trained model."""
