"""Floor 1': labs, experiments, records and the rules about them. Pure: no kernel, no clock, no root."""
