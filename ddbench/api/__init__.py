"""Python calls of every job: `import ddbench` offers them by name. Nothing here prints, and reading needs no torch."""
