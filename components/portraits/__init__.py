"""Faces that are drawn, for a first run without any picture."""
