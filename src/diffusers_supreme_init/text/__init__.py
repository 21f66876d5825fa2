"""Words -> rows: find the text encoders, make the initial rows, and add rows to a vocabulary or remove them."""
