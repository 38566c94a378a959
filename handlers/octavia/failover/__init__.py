"""Replaces failed amphorae, and preserves some of them.

``failed_amphora``  the handler
``keys``            finds the amphora that a notification of Nova names
``queries``         reads Octavia's rows about failures and heartbeats
``heartbeats``      decides whether silence can prove a failure now
``facts``           reads the rows, server, ports and images of an amphora
``proof``           decides whether an amphora has failed
``table``           applies a list of rules
``rules``           chooses the next step of a recovery
``ending``          chooses the steps after Octavia has replaced the amphora
``steps``           the facts about an amphora, and the possible decisions
``actions``         carries out the steps
``undo``            the commands and statements that reverse a step
"""
