"""Changes that make a network faster on a CPU, with the same results up to rounding."""
