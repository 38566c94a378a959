"""Reads notifications from RabbitMQ and decodes them to events; :mod:`consumer.bus.source` is the start."""
