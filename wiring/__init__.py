"""What both commands need, and the only place that joins all packages."""
