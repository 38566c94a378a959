"""The message bus: from RabbitMQ to decoded events, and nothing further."""
