"""The tags inside music files: reading, planning, journalled and verified writing. Knows no model and no score."""
