"""Jobs on a Ray cluster: what is sent there, and what comes back."""
