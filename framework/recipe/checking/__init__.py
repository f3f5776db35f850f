"""Validation of a recipe, and its JSON Schema."""
