"""The engines: how the steps of an attack run. `steps` has the plain loop and says what a step is."""

from fairtat.engines.driver import ENGINE_CHECKS, ENGINES, run
from fairtat.engines.fallback import EngineFallback

__all__ = ["ENGINES", "ENGINE_CHECKS", "EngineFallback", "run"]
