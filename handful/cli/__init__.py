"""The command line: starts services as processes of their own, and calls them as any client does."""
