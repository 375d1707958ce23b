"""One real agent whose trainer is the synthetic one: `python -m tools.soak.agent_process FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.config import AgentConfig
from agent.runtime import run

TRAINER_COMMAND = (sys.executable, "-m", "tools.soak.synthetic_trainer")


def main() -> int:
    """Run the agent that a file of JSON configures, and return its exit code."""
    config = AgentConfig.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return run(config, trainer_command=TRAINER_COMMAND)


if __name__ == "__main__":
    sys.exit(main())
