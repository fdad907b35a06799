"""The edge to Ray: session, resources, nodes, and the run of a search on Ray Tune."""
