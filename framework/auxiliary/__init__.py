"""What trains beside the model: auxiliary losses, teachers, extra modules."""
