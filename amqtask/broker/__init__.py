"""A RabbitMQ for development, demos and tests: a private node, and the choice of a broker."""
