"""One file a format: each loads the programs of a model and computes probabilities and scores."""
