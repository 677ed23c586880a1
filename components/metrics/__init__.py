"""How good is a restored face: metrics with direction and protocol, intervals of their means."""
