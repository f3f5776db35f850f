"""A recipe at work on a model: the manager, the schedule, hooks, checkpoints."""
