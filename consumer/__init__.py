"""The machine: RabbitMQ, the journal and time. Knows nothing of Nova or Octavia beyond the contract in ``handlers.base``."""
