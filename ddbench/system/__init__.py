"""Machine below: files, downloads, the environment, and this process among others."""
