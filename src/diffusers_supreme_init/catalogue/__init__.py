"""The catalogue: thousands of concepts, unattended, by any number of processes; a library comes out.

The folder of a concept is there whole or not at all, and its ``training.json`` says from what it was trained. A ledger
says what else happened. So running again is resuming, and processes need not talk to each other.
"""
