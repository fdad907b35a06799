"""Photos in, rows out: lists photos, decodes them ahead of the model, writes rows that survive a kill, sums up."""
