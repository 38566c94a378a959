"""Attachments in Cinder of instances that are deleted.

The handler is ``audit_attachments``; ``notifications`` has Cinder's broker, events and options ``[cinder]``.
"""
