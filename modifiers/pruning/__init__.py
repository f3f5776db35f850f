"""Pruning: weights that become zero, and channels, heads and layers that leave the model."""
