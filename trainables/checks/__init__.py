"""Checks of a data set before it is trained on: copies, labels, outliers, odd pictures."""
