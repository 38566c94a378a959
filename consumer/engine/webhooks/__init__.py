"""Webhooks: messages about history entries, over HTTP.

``sender`` sends the messages of the journal in threads; ``message`` makes the body, ``signature`` the headers, and
``sending`` makes one attempt.
"""
