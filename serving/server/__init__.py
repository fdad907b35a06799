"""Serves models over HTTP: replicas on Ray Serve behind an ingress of our own."""
