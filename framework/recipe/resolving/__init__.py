"""Resolves a recipe to plain values: overrides and variables, interpolation, expressions."""
