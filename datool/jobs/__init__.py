"""One job a command: takes values, reports progress, returns a dataclass."""
