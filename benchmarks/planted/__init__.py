"""Faults planted into a copy of a data set, and how well the checks find them."""
