"""How weights are scored: criteria."""
