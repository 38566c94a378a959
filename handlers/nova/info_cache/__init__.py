"""Nova's network caches of instances, compared with Neutron. The handler is ``heal_info_cache``."""
