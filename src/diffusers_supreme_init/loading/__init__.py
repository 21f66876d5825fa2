"""Files -> rows for any pipeline: find the files of a concept, and choose the text encoders that get its rows."""
