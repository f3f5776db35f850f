"""Counts of a model: parameters, multiply-accumulates, bytes, latency."""
