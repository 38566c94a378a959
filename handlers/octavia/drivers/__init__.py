"""The calls to a cloud.

base.py         the interface that every driver implements
chosen.py       chooses the driver that ``[housekeeping] driver`` names
noop.py         a cloud in memory
openstack/      a real cloud
"""
