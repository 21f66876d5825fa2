"""Rows <-> files: our own format, and those of other programs."""
