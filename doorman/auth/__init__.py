"""Logins as values: a client's exchange with us and ours with a server. Bytes in, bytes out; no socket, no clock."""
