"""The database: schema, migrations, the one writer, the query language. Knows no audio and no network."""
