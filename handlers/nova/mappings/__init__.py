"""Mappings of instances to cells.

The handler ``map_instances`` inserts missing mappings. ``heal_instance_mappings`` repairs mappings, and deletes mappings of
deleted instances.
"""
