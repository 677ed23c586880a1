"""What is fast and what it costs: `python -m benchmarks.NAME` writes `results/NAME.json`."""
