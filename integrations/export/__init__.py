"""Preparing a model for another program, and checking that program's output against it."""
