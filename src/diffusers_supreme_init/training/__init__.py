"""Initial rows -> learned rows."""
