"""The command line, built on cliff. ``main`` lists the commands. Most files hold the commands with one first word."""
