"""A Hub of our own on loopback, for tests: the unmodified huggingface_hub client cannot tell the difference.

`server` is the Hub, `faults` makes it fail, `client` runs code that talks to it in a process of its own. The rest is
what the Hub is made of: `store` (what it remembers), `cards` (what it accepts as a model card), `xet_store` (where the
bytes of its xet mode are), `permissions` (who may do what), and the routes (`repo_routes`, `commit_routes`,
`discussion_routes`, `file_routes`). It serves models only, and nothing here is safe outside loopback.
"""
