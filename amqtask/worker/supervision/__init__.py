"""The supervisor's process, which runs no task and speaks no AMQP; a solo worker has none of it but itself."""
