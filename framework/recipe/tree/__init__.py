"""A recipe as a tree of nodes that know their positions."""
