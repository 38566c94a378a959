"""Mappings of instances to cells.

=============================  ======================================================================
``map_instances``              handler: insert missing mappings
``heal_instance_mappings``     handler: repair mappings; delete mappings of deleted instances
``findings``                   evidence, plan, undo and advice of a finding, for ``heal_instance_mappings``
``suspects``                   lists wrong mappings, for ``heal_instance_mappings``
``rules``                      decides about a mapping; records and facts
``unmapped_rules``             decides about an instance without mapping
``facts``                      reads the records that the rules ask for
``queries``                    the SQL
=============================  ======================================================================
"""
