"""The study: its flags, its directory, its lock and its database."""
