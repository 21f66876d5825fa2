"""Every pipeline class of the installed diffusers that takes a prompt, and how the loader is tried on each.

`classes` lists them. What no family of `tiny` builds whole is built as far as its text encoders (`text_halves`,
`modular_halves`), or refused (`refusals`). `tests/pipeline_table.py` writes ``docs/pipelines.md`` from all this.
"""
