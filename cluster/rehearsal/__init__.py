"""A cluster of several nodes on one machine, to rehearse on."""
