"""Access to a cloud for handlers: APIs, databases, configuration files of services. This package imports no handler.

``roles`` has the Keystone roles that calls need, ``rabbit_options`` the TLS options of a service's broker. ``backoff`` spares
callers the wait for a database that did not answer.
"""
