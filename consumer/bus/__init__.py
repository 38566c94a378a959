"""Reads notifications from RabbitMQ, and decodes them to events. :mod:`consumer.bus.source` uses the other modules."""
