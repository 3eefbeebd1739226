"""From token ids to token ids: the contract, the engines, and the loader that picks one."""
