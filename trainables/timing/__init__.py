"""How long trials take on this machine: measured passes of a backbone, remembered, and what follows."""
