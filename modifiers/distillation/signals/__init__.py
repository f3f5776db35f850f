"""What teacher and student give to a loss: outputs, features, pairs."""
