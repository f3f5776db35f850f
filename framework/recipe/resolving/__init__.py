"""From what the author wrote to values: interpolation, expressions, overrides, quantities."""
