"""Exit codes, as sysexits.h names them, so that an orchestrator can tell what happened."""

from __future__ import annotations

from typing import Final

EXIT_REFUSED: Final = 1
EXIT_UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE: Redis does not answer."""
EXIT_NODE_FAULT: Final = 70
"""EX_SOFTWARE: a fault of the node, for which a new process is needed."""
EXIT_SETTINGS: Final = 78
"""EX_CONFIG: settings are missing or wrong."""
