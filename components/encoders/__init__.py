"""Frozen networks that look at a face: for the condition, for losses and for metrics."""
