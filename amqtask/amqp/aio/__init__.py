"""The asyncio side of the AMQP layer: one connection per event loop, on aio-pika's protocol engine aiormq."""
