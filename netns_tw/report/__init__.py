"""Floor 5: judged records -> text and JSON. Drawing only; nothing is decided here."""
