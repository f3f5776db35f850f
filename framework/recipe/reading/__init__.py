"""Reading a recipe from wherever it lies: files, packages, checkpoints, hubs, OmegaConf."""
