"""Mappings of instances to cells.

=============================  ======================================================================
``map_instances``              handler: insert missing mappings
``heal_instance_mappings``     handler: repair mappings; delete mappings of deleted instances
``findings``, ``suspects``     the findings and suspects of ``heal_instance_mappings``
``rules``, ``unmapped_rules``  decide about a mapping, and about an instance without one
=============================  ======================================================================
"""
