"""Engines: one file, one program that runs compressed models."""
