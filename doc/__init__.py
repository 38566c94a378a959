"""The documentation: ``source`` holds the pages, the modules here generate parts of them from the code."""
