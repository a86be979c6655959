"""Bugs that hurt users of poolers, each a test: docs/traps.md says which test owns which."""
