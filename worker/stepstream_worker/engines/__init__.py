"""Translation engines and the table that chooses one for a pair of languages."""

from stepstream_worker.engines.port import Engine
from stepstream_worker.engines.registry import (
    NoEngineError,
    choose,
    engine_states,
    served_pairs,
)

__all__ = ["Engine", "NoEngineError", "choose", "engine_states", "served_pairs"]
