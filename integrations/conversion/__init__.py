"""Converts recipes of SparseML and llm-compressor to recipes of paredown."""
