"""Configuration and tokenizers of the SDXL base pipeline, as a folder in diffusers layout.

With it a checkpoint in a single file can be loaded, and its prompts counted, without asking a hub.
`tools/make_sdxl_config.py` writes the files.
"""

from pathlib import Path
from typing import Final

SHIPPED_CONFIG: Final = Path(__file__).parent
