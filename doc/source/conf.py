"""Configuration of the documentation's build."""

from importlib.metadata import version as installed

project = "stackmend"
author = "the stackmend developers"
project_copyright = "the stackmend developers, Apache-2.0"
release = version = installed("stackmend")
# The man page is kept beside the program: its date would make it another one each day.
today = release
extensions = ["openstackdocstheme", "oslo_config.sphinxext"]
exclude_patterns: list[str] = []
html_theme = "openstackdocs"
pygments_style = "native"
# No repository of OpenStack's: no links for reporting bugs there.
openstackdocs_auto_name = False
openstackdocs_auto_version = False
html_theme_options = {"display_badge": False, "display_global_toc_section": True}
man_pages = [("cli", "stackmend", "keeps an OpenStack cloud mended", [author], 8)]
