"""Decoded images: each is decoded once and mapped by all processes of a machine."""
