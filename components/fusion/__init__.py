"""How tokens of the bad picture and of its first restoration become the generator's condition."""
