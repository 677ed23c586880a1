"""Pretrained networks and trained folders: what they hold, where they lie, under which licence."""
