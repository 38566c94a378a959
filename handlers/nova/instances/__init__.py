"""Instances with a task or a build that no service of Nova carries on. The handler is ``audit_stuck_instances``."""
