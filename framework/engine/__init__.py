"""Engines, the programs that run a compressed model: the contract, what they compute, exports and their checks."""
