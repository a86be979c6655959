"""The wrong-answer test: hundreds of clients that know every byte they must get, and everything that can go wrong.

Run by scripts/torture. Reading order: `wire` (the client's protocol), `expect` (transcripts), `client` (one life),
`actions_*` (what a client does), `ledger` (which fault explains which error), `chaos`, `leaks`, `report`, `run`.
"""
