"""Parts of ``stackmend check`` that several services share.

=================  ====================================
``clocks``         this machine and the APIs
``grants``         privileges of database accounts
``notifications``  whether a service publishes to us
``roles``          Keystone roles of the credentials
=================  ====================================
"""
