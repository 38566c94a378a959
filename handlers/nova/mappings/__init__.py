"""Mappings of instances to cells.

=============================  ======================================================================
``map_instances``              handler: insert missing mappings
``heal_instance_mappings``     handler: repair mappings; delete mappings of deleted instances
``findings``                   makes the findings of ``heal_instance_mappings``
``suspects``                   lists the suspects of ``heal_instance_mappings``
``rules``                      decides about a mapping
``unmapped_rules``             decides about an instance without a mapping
``facts``                      reads an instance's records for the rules
``queries``                    the SQL
=============================  ======================================================================
"""
