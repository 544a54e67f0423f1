"""Theory: what can be said about learning from tasks, before any method is chosen."""
