"""Number formats, ranges, scales and rounding."""
