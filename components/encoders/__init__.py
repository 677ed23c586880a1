"""Frozen networks that look at a face: what the models are told, and what judges them."""
