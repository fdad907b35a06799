"""Runs the study on Ray: flags, database, searchers, schedulers, resources."""
