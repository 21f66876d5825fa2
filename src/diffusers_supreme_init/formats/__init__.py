"""Rows <-> files: the format of this package, and those of other programs."""
