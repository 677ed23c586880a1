"""Picture files from outside: what they are, their pixels, and what is lost when they are read."""
