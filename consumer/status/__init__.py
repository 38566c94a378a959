"""Shows the status over HTTP, read-only: metrics, health, a page. :mod:`consumer.status.serving` uses the other modules."""
