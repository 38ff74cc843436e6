"""The prompt enhancer: what it is asked for, and what happens when it fails."""

from shared.enhance.base import Enhancer, enhance_or_original
from shared.enhance.rules import RuleEnhancer

__all__ = ["Enhancer", "RuleEnhancer", "enhance_or_original"]
