"""What users hand in: values and files, and the words for what they are instead."""
