"""paredown: compression of any PyTorch model, written down as a recipe."""
