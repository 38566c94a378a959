"""How handlers reach a cloud. This layer knows no handler.

==================  ==================================================
``cloud``           the session, and the errors of failed calls
``cloud_options``   the options of ``[openstack]``
``database``        another service's database, and ages by its clock
``schemas``         whether stackmend knows a database's schema
``neutron``         the client of Neutron's ports
``roles``           the Keystone roles that calls need
``rabbit_options``  the TLS options of a service's broker
``service_files``   single values out of other services' files
==================  ==================================================
"""
