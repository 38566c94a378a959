"""What the benchmark ``ingest`` needs: its messages, its broker, its journal, its three consumers and their meter."""
