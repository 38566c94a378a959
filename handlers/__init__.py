"""The work: what drifts in Nova and Octavia, how it is proved, how it is healed.

Nothing here knows RabbitMQ, the journal or the command line; the machine that runs handlers is the package ``consumer``.
"""
