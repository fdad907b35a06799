"""Searches in simulated time: made-up learning curves, workers, clusters and studies."""
