"""Deep learning from the ground up: what the later parts take for granted."""
