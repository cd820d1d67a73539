"""Models published by others: fetching, converting and installing them. Independent of tracks and databases."""
