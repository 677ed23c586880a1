"""How a restorer is trained: a step and its losses, the loop, checkpoints, the order of rows."""
