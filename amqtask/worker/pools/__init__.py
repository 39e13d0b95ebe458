"""Pools: the ways a child runs tasks in its slots. ``base`` is the seam, one module per pool."""
