"""Results: reply queues, the table of awaited results, and the handles that read it."""
