"""The commands in texts: their syntax, where they stand, and an operator who runs them on the simulated cloud.

``syntax``    the options of ``openstack`` and ``nova-manage``, and a reader of commands in prose
``texts``     the commands in the source code and on the pages
``operator``  runs commands and SQL statements
"""
