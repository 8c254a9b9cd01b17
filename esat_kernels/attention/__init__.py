"""Force-directed attention: one file per backend, `api` chooses."""
