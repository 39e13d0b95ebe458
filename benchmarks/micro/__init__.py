"""Microseconds per operation of the pure parts; each module runs as a script."""
