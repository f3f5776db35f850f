"""The user's model: which layers are meant, what acts around their forwards, how structure changes, its optimizers."""
