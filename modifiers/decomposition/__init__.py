"""Decomposition: layers replaced by several smaller ones whose product is near them."""
