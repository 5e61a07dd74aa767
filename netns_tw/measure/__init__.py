"""Floor 2: observation only. Nothing here sends a packet or changes a socket."""
