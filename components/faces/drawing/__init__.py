"""The parts of a drawn portrait, from the traits of a person to the light on the skin."""
