"""Side-by-side speed figures against what a user would write without us."""
