"""Floor 4': a record read closely: what it proves about ports, closers, causes. Pure: no kernel, no clock, no root."""
