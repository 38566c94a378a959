"""Attachments in Cinder whose instances are deleted.

The handler is ``audit_attachments``; ``notifications`` has Cinder's broker, events and options ``[cinder]``.
"""
