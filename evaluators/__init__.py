"""Protocols: frozen constants, and nothing else. A changed number is a new version with a new name."""
