"""Search spaces, which say which configurations are tried: one a file, found by its file name."""

from search_spaces._catalogue import load_space, names
from search_spaces._contract import DataFacts, Defaults, Recipe, SearchSpace
from search_spaces._describe import SpaceRow, describe, make_table

__all__ = [
    "DataFacts",
    "Defaults",
    "Recipe",
    "SearchSpace",
    "SpaceRow",
    "describe",
    "load_space",
    "make_table",
    "names",
]
