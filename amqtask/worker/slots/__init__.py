"""What a slot does with one message, from its header to what follows from its end."""
