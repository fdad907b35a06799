"""Plain Ray Tune and Unfreeze on the same trials: the two sides, what both are given, and their figures."""
