"""The level `guards`: what has to be refused, and leaves the state alone."""
