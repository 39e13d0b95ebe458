"""What a worker command does before there are processes: its options, what it says of itself, and the node it starts."""
