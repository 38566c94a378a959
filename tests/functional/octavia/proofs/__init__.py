"""States in which a heal of an Octavia handler is proved, and the changes of their records."""
