"""Private servers for tests: RabbitMQ, MariaDB and PostgreSQL.

Each class owns one server: its folder, its ports on 127.0.0.1 and its processes. The servers of
the machine are neither used nor touched, so tests may stop, kill and restart what they were given.
"""
