"""Saving and reading: state as plain values and tensors, compact forms, and files."""
