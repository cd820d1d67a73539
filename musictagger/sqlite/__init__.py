"""SQLite files for the library and the journal: opening them, readable errors, column types. Uses no table."""
