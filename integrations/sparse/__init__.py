"""Layers that skip the zeros of their weights in PyTorch."""
