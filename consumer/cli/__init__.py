"""The command line, built on cliff.

main          the program: global options, commands, errors
base          base classes of commands; tables
errors        exit codes; the error that an operator can solve
session       configuration, handlers and journal of one command
logs          masks passwords in logs
run           the daemon
sweep         one sweep
inspect_heal  one object
handler       lists, pauses and resumes handlers
work          the table of work
history       findings and heals
dead          dead letters
db            the journal's schema
check         checks the deployment
inventory     objects that handlers keep in the cloud
demo          the demonstration, as text or JSON
demo_daemon   the demonstration's cloud and daemon
"""
