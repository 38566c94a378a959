"""The command line, built on cliff. ``main`` lists the commands. Most files hold commands with the same first word."""
