"""The answer of a study: one model made of its trials, and a score that can be believed."""
