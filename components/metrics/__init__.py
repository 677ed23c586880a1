"""How good a restored face is: metrics with direction and protocol, intervals of their means."""
