"""Nova's drift: one file per task, the databases and Placement beside them."""
