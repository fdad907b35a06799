"""Photos in, rows out: lists and decodes photos ahead of the model, writes rows that survive a kill."""
