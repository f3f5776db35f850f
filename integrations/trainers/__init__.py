"""What the integrations of trainers share."""
