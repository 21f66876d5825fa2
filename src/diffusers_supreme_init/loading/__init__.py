"""Files -> rows for any pipeline: where they come from, which text encoder they go to."""
