"""Ray Train around the plain training loop."""
