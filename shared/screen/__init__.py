"""The content screen that every job passes before anything is generated; see `shared.screen.screen`."""

from shared.screen.rules import RulesError
from shared.screen.screen import Screen, ScreenInput, Verdict

__all__ = ["RulesError", "Screen", "ScreenInput", "Verdict"]
