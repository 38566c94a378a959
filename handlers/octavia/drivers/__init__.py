"""How the amphorae's house is kept: without a cloud (:mod:`.noop`), and with a real one (:mod:`.openstack`)."""
