"""Labs that stay: those that are up (entry, roster), how one comes up (bringup), what is done in it (visit, stage)."""
