"""The five steps of the page, from a picture to a word at home: each one's layout, and what its buttons do."""
