"""Labelled images: where they are, how they are split, and the views of them that training sees."""
