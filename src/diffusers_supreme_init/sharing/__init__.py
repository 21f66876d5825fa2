"""Learned rows -> a folder with a model card -> a repository on the Hub.

`saving` writes a run to a `saved_folder`: `concept_files` makes the contents, `model_card` the card. `publishing`
commits such a folder: `upload` reads its files, `card_editing` completes its cards, `repository` finds their place.
Neither replaces rows unless `overwriting` allows it. `sheet` shows the results of a run.
"""
