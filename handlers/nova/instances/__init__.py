"""Instances with a task or a build that no service of Nova carries on.

``audit_stuck_instances``  the handler
``facts``                  reads the records of an instance
``rules``                  decides about an instance, without I/O
``queries``                the SQL
"""
