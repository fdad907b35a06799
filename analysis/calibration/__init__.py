"""What probabilities and features are good for: a temperature, sets of classes, unknown classes."""
