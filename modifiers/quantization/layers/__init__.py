"""Which layers are quantized, and what acts around their forwards."""
