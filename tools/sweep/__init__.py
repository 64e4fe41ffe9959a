"""Accuracy and speed of trained models over keep rates and rules."""
