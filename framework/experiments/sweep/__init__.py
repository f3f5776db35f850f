"""Sweeps: many jobs, their folders, and what came out of them."""
