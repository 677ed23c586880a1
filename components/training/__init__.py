"""How a restorer learns: a step and its losses, the loop, checkpoints, the order of rows."""
