"""The command line, built on cliff: ``main`` lists the commands, and most files hold the commands of one noun."""
