"""The model's computation as an exported graph, and what follows from it."""
