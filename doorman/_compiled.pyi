"""The library that has all compiled modules; made by setup.py."""

NAMES: frozenset[str]
