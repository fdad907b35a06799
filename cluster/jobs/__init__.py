"""Jobs on any Ray cluster: submit, follow, stop, fetch."""
