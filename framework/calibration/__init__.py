"""What modifiers learn from data without training: second moments, sensitivity, statistics, layer by layer."""
