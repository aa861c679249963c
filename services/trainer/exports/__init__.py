"""Model versions as zips that run without Handful: built from a bundle in a limited process, proved, kept, and sent."""
