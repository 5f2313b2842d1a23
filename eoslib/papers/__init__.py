"""Floor 4, what one paper needs and no other."""
