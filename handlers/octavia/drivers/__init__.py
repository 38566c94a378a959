"""The calls to the cloud.

==============  ========================================================================================================
base.py         the interface of every driver
chosen.py       the driver that ``[housekeeping] driver`` names
noop.py         a cloud in memory
openstack/      a real cloud
==============  ========================================================================================================
"""
