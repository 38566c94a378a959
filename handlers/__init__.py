"""Handlers prove drift and heal it. Only the package ``consumer`` connects to RabbitMQ and the journal.

base       the interface to ``consumer``; read it first
testing    runs a handler in a test
demo       the base class for ``stackmend demo``
checks     parts of ``stackmend check``
access     databases, clients of APIs, the services' configuration files
nova       Nova's handlers, by family
octavia    Octavia's handlers, by family
"""
