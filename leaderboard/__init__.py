"""The leaderboard: a static site made of records, that works from a file, with no network and no server."""
