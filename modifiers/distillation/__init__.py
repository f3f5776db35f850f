"""Distillation: a student that learns from the outputs and features of teachers."""
