"""How handlers reach a cloud. This package knows no handler.

cloud           the session; turns a failed call into an error of :mod:`handlers.base`
cloud_options   the options of ``[openstack]``
cinder, compute, neutron  the clients of these services
database        a service's database, its errors, and ages by its clock
patience        how long a connection waits for its database
backoff         spares callers the wait for a database that did not answer
galera          connections to a Galera cluster
sql_text        statements as an operator types them
schemas         whether stackmend knows a database's schema
roles           the Keystone roles that calls need
rabbit_options  the TLS options of a service's broker
service_files   reads values from services' configuration files
request_id      the request id of the current inspection or sweep
"""
