"""How handlers reach a cloud. This layer knows no handler.

cloud           the session, and one place where a failed call becomes an error of the contract
cloud_options   the options of ``[openstack]``
database        a database of another service, its errors, and ages by its clock
schemas         whether a database has a schema that stackmend knows
neutron         the client of Neutron's ports
roles           the Keystone roles that calls need
rabbit_options  the TLS options of a service's broker
service_files   single values out of the files of other services
"""
