"""What people type: `hdrface X` is X.py."""
