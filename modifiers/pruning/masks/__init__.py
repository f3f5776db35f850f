"""Masks: which weights are zero, and how they stay so."""
