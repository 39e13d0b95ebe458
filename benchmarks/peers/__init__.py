"""The frameworks, one module each, with the same small interface; see ``side``.

Each module runs in the environment of its framework, as ``python -m benchmarks.peers.NAME WORD``, and is the application
that the framework's worker loads. So no module of one framework is ever imported beside another's, and ``amqtask`` is one of
them: it is measured from outside like the rest.
"""
