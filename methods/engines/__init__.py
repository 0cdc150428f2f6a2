"""Mathematics that several methods share, a folder a family."""
