"""Replaces failed amphorae, and preserves some of them.

``failed_amphora``  the handler
``keys``            from Nova's notifications to amphorae
``queries``         Octavia's rows about failures and heartbeats
``heartbeats``      whether silence proves anything now
``facts``           reads the rows, server, ports and images of an amphora
``proof``           whether an amphora has failed
``table``           a table of rules
``rules``           the next step of a recovery
``ending``          the steps after the replacement
``steps``           the names of the steps, and the other decisions
``actions``         carries out the steps
``undo``            the commands and statements that take a step back
"""
