"""A rehearsal: a Ray cluster of several nodes on this machine, to try what a real one will do."""
