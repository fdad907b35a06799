"""Activations: outputs of frozen prefixes, computed once and shared by trials."""
