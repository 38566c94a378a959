"""Parts of ``stackmend check`` that several services share.

clocks         whether this host and the APIs agree about the time
grants         the privileges of database accounts
notifications  whether a service publishes to a topic that stackmend consumes
roles          the Keystone roles of the credentials
"""
