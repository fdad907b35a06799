"""Searches without training: made-up learning curves, workers that compute nothing, and what is measured."""
