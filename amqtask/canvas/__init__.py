"""Workflows: signatures, how they become messages, and what follows from a task's end."""
