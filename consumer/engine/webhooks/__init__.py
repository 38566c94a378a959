"""Webhooks: messages about history entries, over HTTP.

``sender`` sends messages in threads, and ``sending`` makes one attempt. ``message`` makes the body, ``signature`` the headers.
"""
