"""The database: schema, migrations, the one writer, the query language. Contains no audio or network code."""
