"""Tempest tests of stackmend."""
