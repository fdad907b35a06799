"""How does Ray run the study? Flags, records, searcher, schedulers, resources, session."""
