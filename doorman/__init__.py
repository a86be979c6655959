"""pg_doorman: a PostgreSQL connection pooler of many processes around one shared pool."""

__version__ = "0.1.0"
