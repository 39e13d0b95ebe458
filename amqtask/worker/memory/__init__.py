"""Memory that the processes of a node share, and that outlives each of them."""
