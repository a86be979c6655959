"""TLS whose state is data: OpenSSL makes the handshake (`handshake`), then keys, IVs and sequence numbers are taken out
of it, and `record` seals and opens records with them in whatever process has the connection. docs/tls.md says why."""
