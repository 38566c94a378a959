"""The work: handlers prove drift and heal it. They know neither RabbitMQ nor the journal.

base       the interface to ``consumer``; read it first
testing    runs a handler in a test
demo       the base class for ``stackmend demo``
checks     parts of ``stackmend check``
access     sessions, databases, Neutron, the services' files
nova       Nova's handlers, by family
octavia    Octavia's handlers, by family
"""
