"""Data sets by name, the spaces that images live in, and images that are read as they are shown."""
