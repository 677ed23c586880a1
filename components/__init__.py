"""What a step computes: a library, usable and testable without a cluster."""
