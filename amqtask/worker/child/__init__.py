"""A child's process and its I/O thread: what it consumes, holds, gives back, and is told to look at."""
