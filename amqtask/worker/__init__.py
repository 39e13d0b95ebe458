"""A worker node: a supervisor that keeps children alive, and the children that consume queues and run tasks."""
