"""Reads notifications from RabbitMQ and decodes them to events. The entry point is :class:`consumer.bus.source.Source`."""
