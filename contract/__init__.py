"""The names and types that all packages share; it imports none of them."""
