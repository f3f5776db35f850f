"""Which layers are decomposed, to which form and rank."""
