"""Losses of distillation, functions of tensors."""
