"""Parts of ``stackmend check`` for any service.

clocks         whether this host and the APIs agree about the time
grants         the privileges of database accounts
jobs           commands in cron jobs and systemd units
notifications  whether a service publishes to a topic that stackmend consumes
roles          the Keystone roles of the credentials
"""
