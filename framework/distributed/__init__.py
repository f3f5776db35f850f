"""Several processes: what they agree on, parameters that are split among them, DistributedDataParallel."""
