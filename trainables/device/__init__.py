"""The device that a trial computes on: its numbers, its memory, its faults."""
