"""Attachments in Cinder of instances that are deleted.

=====================  ==========================================================
``audit_attachments``  the handler
``facts``              reads the records of an instance that attachments name
``rules``              decides about an instance and its attachments, without I/O
``queries``            the SQL
``notifications``      Cinder's broker, its events, the options ``[cinder]``
=====================  ==========================================================
"""
