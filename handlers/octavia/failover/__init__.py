"""Failed amphorae are replaced, and some of them are preserved.

``failed_amphora``  the handler
``keys``            from Nova's notifications to amphorae
``queries``         Octavia's rows about failures and heartbeats
``heartbeats``      whether the silence of one amphora proves anything now
``facts``           one reading of an amphora: its rows, its server, ports and images
``proof``           whether an amphora has failed
``table``           a table of rules
``rules``           the next step of a recovery
``ending``          the last steps, after the replacement
``steps``           the names of the steps, and the other decisions
``actions``         the steps, carried out
``undo``            the commands and statements that take a step back
"""
