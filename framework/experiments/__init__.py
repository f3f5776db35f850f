"""Tasks, seeds, folders, sweeps: many runs, from Python."""
