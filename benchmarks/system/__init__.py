"""Work for whole workers on a real broker: each module gives the jobs of one kind of work for one framework."""
