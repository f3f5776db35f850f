"""What a run keeps: plain values and tensors, how they are written to files and read again."""
