"""The I/O thread's end of a run: what is published and confirmed of it, and then the ack."""
