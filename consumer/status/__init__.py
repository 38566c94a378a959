"""What the daemon tells of itself over HTTP: metrics, health, a page. Reads the journal and the engine, changes nothing."""
