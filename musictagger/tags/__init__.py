"""The tags inside music files: reading, planning, journalled and verified writing. Independent of models and scores."""
