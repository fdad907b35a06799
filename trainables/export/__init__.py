"""Export: a trained classifier as a program, and the proof that it predicts the same."""
