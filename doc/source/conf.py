"""Configuration of the documentation's build."""

from importlib.metadata import version as installed

project = "stackmend"
author = "the stackmend developers"
release = version = installed("stackmend")
extensions = ["sphinx.ext.autodoc"]
exclude_patterns: list[str] = []
html_theme = "alabaster"
