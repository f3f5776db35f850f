"""Reads a recipe from a file, a package, a checkpoint, the Hugging Face Hub or an OmegaConf config."""
