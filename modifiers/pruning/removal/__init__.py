"""Channels, heads and layers that are removed."""
