"""Learned rows -> a folder, a card, the Hub."""
