"""AMQP on pika: one I/O thread owns the sockets; every other thread posts to it."""
