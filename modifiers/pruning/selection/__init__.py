"""Which weights go: exact counts of the lowest scores."""
