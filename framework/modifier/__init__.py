"""The contract of a modifier: what a plug-in imports."""
