"""Everything that speaks AMQP: one frame codec, two adapters (threads and asyncio), and the only imports of a client library."""
