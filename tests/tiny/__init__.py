"""Tiny real models: tokenizers, text encoders and whole pipelines from configs, with random weights, seconds on a CPU.

`text`, `language_tokenizers`, `language_models` and `parts` make components; the modules `*_families` make pipelines
of them, and `every_family` lists these all; `families` says what such a pipeline is and runs it.
"""
