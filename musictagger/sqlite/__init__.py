"""SQLite files for the library and the journal: opening them, readable errors, column types. Knows no table."""
