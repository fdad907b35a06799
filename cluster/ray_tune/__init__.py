"""The edge to Ray: the connection, resources, nodes, and the run of a search on Ray Tune."""

from contract.environment import give_home

give_home()  # importing ray.tune fails for a user without one
