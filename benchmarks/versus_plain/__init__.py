"""Plain Ray Tune and Unfreeze on the same trials: what the two sides are given, and their figures."""
