"""Translating the modifiers of other tools' recipes."""
