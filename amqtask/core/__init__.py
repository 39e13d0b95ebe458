"""Values and decisions: no socket, no clock, no thread. Third-party code here: msgspec, whose structs are the values."""
