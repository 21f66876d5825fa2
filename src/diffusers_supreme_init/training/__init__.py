"""Concepts -> initial rows -> learned rows.

`preparation` checks the concepts, `word_finding` finds missing words, `beginning` makes them ready for the first step.
`loop` trains their `rows` and keeps their `progress`, which `checkpoint` stores and `previews` and `reporting` show.
`proposals` finds words without training.
"""
