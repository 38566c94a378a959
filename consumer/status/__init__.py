"""Shows the status over HTTP, read-only: metrics, health, a page. Begin with :mod:`consumer.status.serving`."""
