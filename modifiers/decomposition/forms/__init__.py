"""The decomposed forms of a layer, and how they are computed."""
