# mypy: ignore-errors
"""Starts nova-compute with the drivers of this folder.

Nova loads drivers from the package ``nova.virt`` only; so this folder becomes a part of it.
"""

import sys
from pathlib import Path

import nova.cmd.compute
import nova.virt

if __name__ == "__main__":
    nova.virt.__path__.append(str(Path(__file__).parent))
    sys.exit(nova.cmd.compute.main())
