"""Configuration of the documentation's build."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

project = "stackmend"
author = "the stackmend developers"
project_copyright = "the stackmend developers, Apache-2.0"
release = version = installed("stackmend")
# The man pages in etc are compared with fresh ones, which must not differ from day to day, nor from commit to commit.
today = project
extensions = ["openstackdocstheme", "oslo_config.sphinxext", "reno.sphinxext", "doc.sphinx_extension"]
exclude_patterns: list[str] = []
html_theme = "openstackdocs"
pygments_style = "native"
# This is not an OpenStack repository: the theme must not link to OpenStack's bug tracker.
openstackdocs_auto_name = False
openstackdocs_auto_version = False
html_theme_options = {"display_badge": False, "display_global_toc_section": True}
man_pages = [
    ("cli", "stackmend", "keeps an OpenStack cloud mended", [author], 8),
    ("nova-audit", "nova-audit", "finds and heals drift in Nova's data", [author], 8),
]
