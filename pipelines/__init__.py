"""The order of steps: one thin module for each stage, and what people type."""
