"""The generators that take the one step: a protocol, and one file for each family of networks."""
