"""Webhooks: messages about history entries, over HTTP.

``sender`` is the thread that sends the messages of the journal; ``message`` makes the body, ``signature`` the headers, and
``sending`` makes one attempt.
"""
