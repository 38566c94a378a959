"""Mappings of instances to cells.

=============================  ======================================================
``map_instances``              handler: insert missing mappings
``heal_instance_mappings``     handler: repair mappings, delete leftovers
``rules``                      verdicts about mappings; records and facts
``unmapped_rules``             verdicts about instances without mapping
``facts``                      reads the records that the rules ask for
``queries``                    the SQL
=============================  ======================================================
"""
