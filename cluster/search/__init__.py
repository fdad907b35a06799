"""The search itself, without Ray: which trial is next, and how each one ends."""
