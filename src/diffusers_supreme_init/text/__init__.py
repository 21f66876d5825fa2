"""Words -> rows in their place: who reads a prompt, where rows start, how they get in and out of a vocabulary."""
