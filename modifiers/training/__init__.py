"""Training settings over time: learning rate, weight decay, frozen parameters."""
