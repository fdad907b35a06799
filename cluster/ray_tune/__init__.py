"""The edge to Ray: the connection, resources, nodes, and the run of a search on Ray Tune."""
