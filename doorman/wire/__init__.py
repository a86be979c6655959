"""The PostgreSQL protocol as values: bytes in, values out, and back. No socket, no clock, no state but `Frames`."""
