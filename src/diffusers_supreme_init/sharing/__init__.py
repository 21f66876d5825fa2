"""Learned rows -> a folder with a model card -> a repository on the Hub."""
