"""Records: every score as a typed fact in a file, the store of them, statistics, and claims of others."""
