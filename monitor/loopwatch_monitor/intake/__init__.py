"""How events come in: a broker's messages as raw bodies, and bodies as typed events."""
