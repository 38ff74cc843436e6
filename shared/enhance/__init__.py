"""The prompt enhancer: what it is asked for, and what happens when it fails."""

from shared.enhance.base import Enhancer, enhance_or_original
from shared.enhance.rules import RuleEnhancer, states
from shared.enhance.style import COMMA_TERMS, SENTENCES, Style

__all__ = ["COMMA_TERMS", "SENTENCES", "Enhancer", "RuleEnhancer", "Style", "enhance_or_original", "states"]
