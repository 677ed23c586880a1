"""The paper's tables, with the numbers that were measured here beside its own."""
