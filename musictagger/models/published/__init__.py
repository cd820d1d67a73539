"""Models that others published: fetching, converting and installing them. Knows no track and no database."""
