"""Reads notifications from RabbitMQ and decodes them to events. Begin with :class:`consumer.bus.source.Source`."""
