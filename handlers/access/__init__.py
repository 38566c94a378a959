"""How handlers reach a cloud: APIs, databases and files. This layer knows no handler."""
