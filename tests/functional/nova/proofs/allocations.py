DRIFTS: tuple = ()
