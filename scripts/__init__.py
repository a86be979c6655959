"""Commands of the project; the Python parts of quickstart and bench."""
