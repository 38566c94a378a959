"""Parts of ``stackmend check`` that the checks of Nova and Octavia share."""
