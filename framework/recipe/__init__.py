"""The recipe language: sources, nodes with positions, merging, interpolation, validation, and back to YAML."""

from paredown.framework.recipe.recipe import Recipe

__all__ = ["Recipe"]
