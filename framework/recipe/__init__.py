"""Recipes: read from files and other sources, resolved, validated, and written as YAML.

The stages, each importing only those before it: tree, reading, resolving, checking; `recipe` joins them.
"""

from paredown.framework.recipe.recipe import Recipe

__all__ = ["Recipe"]
