"""Plumbing that every service needs. It knows no business noun."""
