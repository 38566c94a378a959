"""The work: handlers prove drift and heal it. They know neither RabbitMQ nor the journal.

========== ======================================================
base       the contract; read it first
testing    runs a handler in a test
demo       the contract of a demonstration
checks     what ``stackmend check`` judges
access     sessions, databases, Neutron, the services' files
nova       Nova's handlers, by family
octavia    Octavia's handlers, by family
========== ======================================================
"""
