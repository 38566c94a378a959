"""Nova's network caches of instances, compared with Neutron.

``heal_info_cache``  the handler
``facts``            reads an instance's rows
``rules``            decides about one port, without I/O
``queries``          the SQL
"""
